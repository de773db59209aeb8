"""A small labelled set of real sounds: General MIDI instruments and effects, played by fluidsynth from soundfonts.

    python benchmarks/midi_sounds.py out_folder

renders short phrases of every sound of `SOUNDS` from every soundfont of `FONTS`, 16 kHz mono WAV, about 370 MB, and
writes the manifests `<split>.csv` that `audio2img-train` reads. On Debian and Ubuntu the soundfonts are packages; what
is missing is named. MuseScore's soundfont was made from FluidR3, so the two are one source, and only TimGM6mb is
another one: a fair test holds out TimGM6mb, or everything else.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from training.recipes.mini.midi import DRUM_CHANNEL, END_OF_TRACK, TICKS_PER_SECOND, standard_midi_file  # noqa: E402

FONTS = {  # name: (file, Debian package)
    "fluid": ("/usr/share/sounds/sf2/FluidR3_GM.sf2", "fluid-soundfont-gm"),
    "musescore": ("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3", "musescore-general-soundfont-small"),
    "timgm": ("/usr/share/sounds/sf2/TimGM6mb.sf2", "timgm6mb-soundfont"),
}
WORDINGS = ("the sound of {}", "{}", "a recording of {}")
SECONDS = 4.0  # of a clip
SAMPLE_RATE = 16000
CLIPS = 12  # of each sound from each soundfont

_GAP = 1.0  # seconds between clips in a rendering, in which what still sounds is cut off
_GROUP = 10  # sounds rendered by one call of fluidsynth

# What people call it; General MIDI programs (counted from 0), or with d percussion keys; lowest-highest key.
# Notes of a "held" sound last for the whole clip: a phrase of short ones would cut an effect off.
_TABLE = """
a piano: 0 1, 36-90
an electric piano: 4 5, 40-84
a harpsichord: 6, 40-84
a clavinet: 7, 40-76
a celesta: 8, 60-96
a glockenspiel: 9, 72-100
a music box: 10, 60-96
a vibraphone: 11, 53-88
a marimba: 12, 45-84
a xylophone: 13, 65-96
tubular bells: 14, 60-77
a hammered dulcimer: 15, 48-84
an electric organ: 16 17 18, 40-84
a church organ: 19, 36-84
an accordion: 21 23, 53-84
a harmonica: 22, 60-84
an acoustic guitar: 24 25, 40-76
a jazz guitar: 26, 40-76
a clean electric guitar: 27, 40-76
a muted guitar: 28, 40-70
a distorted guitar: 29 30, 40-72
guitar harmonics: 31, 52-84
a plucked double bass: 32, 28-52
a bass guitar: 33 34, 28-52
a slap bass: 36 37, 28-52
a synthesizer bass: 38 39, 28-52
a violin: 40, 55-90
a viola: 41, 48-78
a cello: 42, 36-66
a bowed double bass: 43, 28-52
trembling strings: 44, 45-84
plucked strings: 45, 40-84
a harp: 46, 36-88
kettledrums: 47, 40-55
a string orchestra: 48 49, 40-84
a choir: 52 53, 48-79
an orchestra hit: 55, 48-72
a trumpet: 56, 55-82
a trombone: 57, 40-67
a tuba: 58, 28-50
a muted trumpet: 59, 55-82
a french horn: 60, 41-72
a brass band: 61 62, 43-79
a soprano saxophone: 64, 58-84
a tenor saxophone: 66 67, 38-68
an oboe: 68, 58-86
an english horn: 69, 52-77
a bassoon: 70, 36-65
a clarinet: 71, 50-84
a piccolo: 72, 74-100
a flute: 73, 60-90
a recorder: 74, 60-90
a pan flute: 75, 60-88
a blown bottle: 76, 55-79
a bamboo flute: 77, 57-81
someone whistling: 78, 67-84
an ocarina: 79, 60-84
a video game melody: 80, 48-84
a buzzing synthesizer: 81, 40-84
a warm synthesizer: 89, 40-79
a sitar: 104, 48-77
a banjo: 105, 48-79
a shamisen: 106, 50-79
a koto: 107, 48-84
a thumb piano: 108, 48-79
bagpipes: 109, 50-77
a fiddle: 110, 55-90
a shawm: 111, 50-77
a tinkling bell: 112, 60-84
a steel drum: 114, 52-76
a wood block: 115, 50-79
a large drum: 116, 36-60
toms: 117, 40-67
a synthesizer drum: 118, 40-67
a reversed cymbal: 119 held, 55-65
waves of the sea: 122 held, 52-68
singing birds: 123, 55-68
a ringing telephone: 124, 55-67
a helicopter: 125 held, 53-67
applause: 126 held, 53-67
gun shots: 127, 50-67
a bass drum: d35 36
a snare drum: d38 40
clapping hands: d39
a closed hi-hat: d42
an open hi-hat: d46
a crash cymbal: d49 57
a ride cymbal: d51 59
a tambourine: d54
a cowbell: d56
bongos: d60 61
congas: d63 64
maracas: d70
a scraped guiro: d74
a triangle: d81
"""


@dataclass(frozen=True)
class Sound:
    """One kind of sound, and how General MIDI plays it."""

    name: str  # with its article, as it stands in captions
    numbers: tuple[int, ...]  # programs, or percussion keys; a clip has one of them (drums: notes differ)
    keys: tuple[int, int] | None  # lowest and highest key, None for percussion
    held: bool  # one note that lasts

    @property
    def captions(self) -> list[str]:
        """Every wording."""
        return [wording.format(self.name) for wording in WORDINGS]


def _sound(line: str) -> Sound:
    name, _, rest = line.partition(": ")
    numbers, _, keys = rest.partition(", ")
    words = numbers.removeprefix("d").split()
    low, _, high = keys.partition("-")
    programs = tuple(int(word) for word in words if word.isdigit())
    return Sound(name, programs, (int(low), int(high)) if keys else None, "held" in words)


SOUNDS = tuple(_sound(line) for line in _TABLE.strip().splitlines())


def missing_packages(fonts: Iterable[str] = FONTS) -> list[str]:
    """Debian packages that have to be installed to render these soundfonts."""
    packages = [] if shutil.which("fluidsynth") else ["fluidsynth"]
    return packages + [FONTS[name][1] for name in fonts if not Path(FONTS[name][0]).is_file()]


def render(folder: Path, font: str) -> dict[str, list[Path]]:
    """Sound name -> its `CLIPS` WAV files below `folder`; what is there already is not rendered again.

    The phrases differ from soundfont to soundfont, and are the same in every call.

    Raises:
        RuntimeError: fluidsynth fails or is not installed.
    """
    files = {
        sound.name: [folder / font / f"{sound.name.replace(' ', '_')}-{i:02}.wav" for i in range(CLIPS)]
        for sound in SOUNDS
    }
    (folder / font).mkdir(parents=True, exist_ok=True)
    for first in range(0, len(SOUNDS), _GROUP):
        group = SOUNDS[first : first + _GROUP]
        wanted = [file for sound in group for file in files[sound.name]]
        if not all(file.is_file() for file in wanted):
            _render_group(group, font, wanted)
    return files


def write_manifest(path: Path, clips: Iterable[tuple[Path, Sequence[str]]]) -> None:
    """A manifest of pairs of sound file and captions, in JSON lines, as `training.data.sources` reads it."""
    rows = [{"audio": str(file), "caption": list(captions)} for file, captions in clips]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_splits(folder: Path, held_out: str, *, dev_clips: int = 2) -> dict[str, Path]:
    """Manifests of the splits: `train` and `dev` (other phrases of the same soundfonts), and `test`.

    Args:
        folder: for sounds and manifests.
        held_out: the soundfont that `test` is of. Its relatives are in no split: where it is not TimGM6mb, training
            has TimGM6mb only.
        dev_clips: of the `CLIPS` of each sound and soundfont.

    Raises:
        RuntimeError: as `render`.
    """
    fonts = [name for name in FONTS if name != "timgm"] if held_out == "timgm" else ["timgm"]
    files = {font: render(folder / "sounds", font) for font in [*fonts, held_out]}
    last = CLIPS - dev_clips
    parts = {
        "train": [(font, slice(0, last)) for font in fonts],
        "dev": [(font, slice(last, CLIPS)) for font in fonts],
        "test": [(held_out, slice(0, CLIPS))],
    }
    manifests = {}
    for split, taken in parts.items():
        manifests[split] = folder / f"{split}-without-{held_out}.jsonl"
        clips = ((f, sound.captions) for font, part in taken for sound in SOUNDS for f in files[font][sound.name][part])
        write_manifest(manifests[split], clips)
    return manifests


def _render_group(sounds: Sequence[Sound], font: str, files: Sequence[Path]) -> None:
    """Render the clips of some sounds, one behind the other, and cut them into `files`."""
    from audio2img_core.audio.excerpt import Excerpt
    from audio2img_core.audio.waveform import read_clips

    phrases = [
        _phrase(sound, clip, random.Random(f"{font} {sound.name} {clip}")) for sound in sounds for clip in range(CLIPS)
    ]
    with tempfile.TemporaryDirectory() as temporary:
        midi, rendered = Path(temporary) / "clips.mid", Path(temporary) / "clips.wav"
        midi.write_bytes(midi_file(phrases))
        # Without reverb and chorus: those are fluidsynth's own and would be the same for every soundfont.
        command = ["fluidsynth", "-n", "-i", "-R", "0", "-C", "0", "-r", "44100", "-T", "wav", "-F", str(rendered)]
        try:
            subprocess.run([*command, FONTS[font][0], str(midi)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(f"fluidsynth cannot render {FONTS[font][0]}: {error}") from error
        for number, file in enumerate(files):
            clip = read_clips(rendered, Excerpt(number * (SECONDS + _GAP), SECONDS))[0]
            clip = clip / max(float(clip.abs().max()), 1e-3) * 0.5  # levels would be lost in 16 bits
            partial = file.with_suffix(".partial")
            with wave.open(str(partial), "wb") as out:
                out.setnchannels(1)
                out.setsampwidth(2)
                out.setframerate(SAMPLE_RATE)
                out.writeframes((clip * 32767).round().short().numpy().tobytes())
            partial.rename(file)


Event = tuple[float, bytes]  # seconds from the start of the clip, and the MIDI message


def _phrase(sound: Sound, clip: int, rng: random.Random) -> list[Event]:
    """What is played in one clip: a few notes at random, on one of the sound's programs."""
    channel = 0 if sound.keys else DRUM_CHANNEL
    program = sound.numbers[clip % len(sound.numbers)] if sound.keys else 0
    events: list[Event] = [(0.0, bytes([0xC0 | channel, program]))]
    time, end = rng.uniform(0, 0.2), SECONDS - 0.3
    while time < end - 0.1:
        length = end - time if sound.held else min(rng.choice([0.2, 0.35, 0.5, 0.8, 1.2, 2.0]), end - time)
        key = rng.randint(*sound.keys) if sound.keys else rng.choice(sound.numbers)
        events.append((time, bytes([0x90 | channel, key, rng.randint(60, 120)])))
        events.append((time + 0.95 * length, bytes([0x80 | channel, key, 0])))
        time += length
    return events


def midi_file(phrases: Sequence[Sequence[Event]]) -> bytes:
    """A MIDI file (format 0) that plays each phrase in a slot of its own, `SECONDS` and a gap long."""
    events: list[Event] = []
    for number, phrase in enumerate(phrases):
        start = number * (SECONDS + _GAP)
        events += [(start + time, message) for time, message in phrase]
        silence = start + SECONDS + 0.1
        events += [(silence, bytes([0xB0 | channel, 120, 0])) for channel in (0, DRUM_CHANNEL)]  # all sound off
    events.append((len(phrases) * (SECONDS + _GAP), END_OF_TRACK))
    ordered = sorted(events, key=lambda event: event[0])
    return standard_midi_file([(round(time * TICKS_PER_SECOND), message) for time, message in ordered])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where sounds and manifests go")
    parser.add_argument("--held-out", choices=sorted(FONTS), default="timgm", help="soundfont (default: %(default)s)")
    args = parser.parse_args()
    if packages := missing_packages():
        sys.exit(f"please install: sudo apt-get install {' '.join(packages)}")
    for split, manifest in make_splits(args.folder, args.held_out).items():
        print(f"{split}: {manifest}")


if __name__ == "__main__":
    main()
