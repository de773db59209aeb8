"""Instruments from single recorded notes: GUS patches (.pat), and packages of one sound file a note."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audio2img_core.audio.io import SAMPLE_RATE

from .clips import load
from .midi import Note

_TONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


@dataclass(frozen=True)
class Sample:
    """One recorded note.

    Attributes:
        waveform: [T] float32.
        rate: Hz.
        key: the MIDI key that sounds at that rate; it need not be whole.
        loop: first and last sample of the part that is repeated while the note is held, or None.
    """

    waveform: Tensor
    rate: float
    key: float
    loop: tuple[int, int] | None = None


def play(samples: Sequence[Sample], notes: Iterable[Note], *, release: float = 0.2) -> Tensor:
    """The notes, each from the sample whose key is nearest: [T] float32 at 16 kHz.

    Args:
        release: seconds in which a note dies away after its length.
    """
    placed = []
    for note in notes:
        sample = min(samples, key=lambda sample: abs(sample.key - note.key))
        sound = pitched(sample, 2 ** ((note.key - sample.key) / 12), note.length + release)
        tail = min(round(release * SAMPLE_RATE), len(sound))
        held = max(len(sound) - tail, 0)
        fade = torch.ones(len(sound))
        fade[held:] = torch.linspace(1, 0, len(sound) - held).square()
        placed.append((round(note.start * SAMPLE_RATE), (note.velocity / 127) ** 1.5 * fade * sound))
    whole = torch.zeros(max((start + len(sound) for start, sound in placed), default=0))
    for start, sound in placed:
        whole[start : start + len(sound)] += sound
    return whole


def pitched(sample: Sample, ratio: float, seconds: float) -> Tensor:
    """A sample played `ratio` times as fast, for at most so many seconds: [T] float32 at 16 kHz.

    Resampled through the spectrum, so that nothing folds back; a loop is written out first.
    """
    needed = math.ceil(seconds * sample.rate * ratio) + 1
    waveform = sample.waveform
    if sample.loop and needed > len(waveform):
        first, last = sample.loop
        turns = math.ceil((needed - first) / max(last - first, 1))
        waveform = torch.cat([waveform[:first], waveform[first:last].repeat(turns)])
    waveform = waveform[:needed].numpy()
    # a little silence keeps the end from ringing into the beginning
    padded = np.pad(waveform, (0, 256))
    size = max(round(len(padded) * SAMPLE_RATE / (sample.rate * ratio)), 1)
    spectrum = np.fft.rfft(padded)[: size // 2 + 1]
    sound = np.fft.irfft(spectrum, size) * (size / len(padded))
    return torch.from_numpy(sound[: round(seconds * SAMPLE_RATE)]).float()


def read_patch(path: Path) -> list[Sample]:
    """The samples of a GUS patch file; its envelopes are not used.

    The layout is that of the Gravis UltraSound SDK ("GF1PATCH110"), as TiMidity reads it (instrum.c).

    Raises:
        ValueError: not such a file.
    """
    content = path.read_bytes()
    if content[:8] != b"GF1PATCH" or len(content) < 239:
        raise ValueError(f"{path}: not a GUS patch")
    samples, at = [], 239  # after the headers of file (129), instrument (63) and layer (47)
    for _ in range(content[198]):
        size, first, last = struct.unpack("<3I", content[at + 8 : at + 20])
        (rate,) = struct.unpack("<H", content[at + 20 : at + 22])
        (pitch,) = struct.unpack("<I", content[at + 30 : at + 34])
        modes = content[at + 55]
        data = content[at + 96 : at + 96 + size]
        wide, unsigned = modes & 1, modes & 2
        kind = {(1, 0): "<i2", (1, 2): "<u2", (0, 0): "<i1", (0, 2): "<u1"}[wide, unsigned]
        values = np.frombuffer(data[: size // 2 * 2 if wide else size], kind).astype(np.float32)
        half = 32768 if wide else 128
        waveform = torch.from_numpy((values - half if unsigned else values) / half)
        step = 2 if wide else 1
        loop = (first // step, last // step) if modes & 4 and last > first else None
        samples.append(Sample(waveform, rate, 69 + 12 * math.log2(max(pitch, 1) / 440_000), loop))
        at += 96 + size
    return samples


def key_of(name: str) -> int | None:
    """The MIDI key that a file name tells: "A4", "Fs3", "C#2" or "Bb1" (C4 = 60), also before a velocity ("C4v8").

    None if it tells none.
    """
    match = re.fullmatch(r"([A-G])(s|#|b)?(-?\d)(?:v\d+)?", name)
    if not match:
        return None
    letter, sign, octave = match.groups()
    return _TONES[letter] + {"s": 1, "#": 1, "b": -1, None: 0}[sign] + 12 * (int(octave) + 1)


def read_notes(folder: Path) -> list[Sample]:
    """One sample for each sound file of a folder whose name is a note's.

    Raises:
        FileNotFoundError: there is none.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        key = key_of(path.stem) if path.suffix in (".mp3", ".ogg", ".wav", ".flac") else None
        if key is not None:
            waveform = load(path)
            found.append(Sample(waveform / waveform.abs().max().clamp_min(1e-6), SAMPLE_RATE, key))
    if not found:
        raise FileNotFoundError(f"{folder}: no file is named like a note")
    return found
