"""Spoken sentences from espeak-ng: many languages, voices, pitches and speeds."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .clips import load
from .packages import run
from .soundfonts import seeded

VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "croak", "whisper", "klatt3")
VOICES = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-029",
    "de",
    "fr",
    "es",
    "it",
    "pt",
    "nl",
    "sv",
    "pl",
    "ru",
    "tr",
    "hi",
)
SENTENCES = (
    "Good morning, how are you today?",
    "The train to the city leaves at half past nine.",
    "I have never seen such a beautiful garden before.",
    "Please close the window, it is getting cold in here.",
    "She told me that the meeting was moved to Thursday.",
    "Can you help me carry these boxes upstairs?",
    "We walked along the river until the sun went down.",
    "My brother bought a new bicycle last week.",
    "Nobody knows what will happen next year.",
    "Turn left at the corner and then go straight ahead.",
    "The weather tomorrow will be cloudy with some rain.",
    "One, two, three, four, five, six, seven.",
    "Would you like a cup of tea or some water?",
    "He opened the letter and read it very slowly.",
    "Thank you very much, that was really kind of you.",
    "The museum is open every day except on Monday.",
)


def speak(number: int, folder: Path) -> Tensor:
    """The spoken sentence of this number: [T] float32 at 16 kHz.

    Raises:
        FileNotFoundError: espeak-ng is missing.
    """
    rng = seeded("speech", number)
    voice = VOICES[number % len(VOICES)] if number % 2 else VOICES[number // 2 % 4]
    variant = VARIANTS[rng.integers(len(VARIANTS))]
    text = " ".join(SENTENCES[index] for index in rng.choice(len(SENTENCES), 2, replace=False))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "speech.wav"
    pitch, speed = int(rng.integers(15, 85)), int(rng.integers(120, 210))
    command = ["espeak-ng", "-v", f"{voice}+{variant}", "-p", str(pitch), "-s", str(speed), "-w", str(path), text]
    run(command, what="espeak-ng")
    waveform = load(path)
    path.unlink()
    return waveform
