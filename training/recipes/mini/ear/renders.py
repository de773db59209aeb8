"""Instruments that hardly any recording with a licence has: phrases rendered from soundfonts, at 32 kHz."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import yaml
from torch import Tensor

from audio2img_core import load_audio

from ..midi import midi_file, phrase
from ..packages import Packages, run
from ..soundfonts import SLOT, SOUNDFONTS, Part, SoundFont, presets, seeded
from .teacher import RATE

log = logging.getLogger(__name__)
TRAINED = ("fluid-soundfont-gm", "musescore-general-soundfont")
"""Soundfonts whose licence lets them be trained on. They share samples, so they are one source."""
JUDGING = ("minuet-data",)


def rendered(packages: Packages, folder: Path, count: int) -> Iterator[tuple[dict, Tensor]]:
    """Rows for a store with their sounds [T]: `count` phrases of every kind from each soundfont, a quarter to judge.

    Args:
        folder: for the score and the whole rendering, which are removed.

    Raises:
        FileNotFoundError: fluidsynth or a package is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for font in SOUNDFONTS:
        if font.package in TRAINED:
            yield from _rendered(packages, font, folder, count)
        elif font.package in JUDGING:
            yield from _rendered(packages, font, folder, max(count // 4, 1))


def _rendered(packages: Packages, font: SoundFont, folder: Path, count: int) -> Iterator[tuple[dict, Tensor]]:
    path = packages.unpacked(font.package, [font.file]) / font.file
    parts = parts_of(font, presets(path), count)
    placed = []
    for index, part in enumerate(parts):
        rng = seeded(font.package, part.concept, part.number)
        placed.append((index * SLOT, part.program, phrase(part.play, part.keys, float(rng.uniform(2.0, 5.0)), rng)))
    score, sound = folder / f"{font.package}.mid", folder / f"{font.package}.wav"
    score.write_bytes(midi_file(placed))
    command = ["fluidsynth", "-ni", "-q", "-g", "0.5", "-r", str(RATE), "-F", str(sound), str(path), str(score)]
    run(command, what=f"rendering {font.package}")
    for index, part in enumerate(parts):
        waveform, _ = load_audio(sound, start=index * SLOT, duration=SLOT, sample_rate=RATE)
        row = {
            "id": f"{font.package}/{part.concept}/{part.number}",
            "kind": part.concept,
            "licence": font.licence,
            "source": "fluid-soundfont" if font.package in TRAINED else font.package,
            "package": font.package,
            "version": packages.version(font.package),
            "path": f"{font.file} ({'drums' if part.program is None else f'program {part.program}'})",
            "rendered": True,
        }
        yield row, trimmed(waveform.mean(0))
    score.unlink()
    sound.unlink()


def parts_of(font: SoundFont, have: set[tuple[int, int]], count: int) -> list[Part]:
    """What to render from a soundfont with these (bank, program) pairs."""
    table = yaml.safe_load(Path(__file__).with_name("renders.yaml").read_text(encoding="utf-8"))
    parts = []
    for kind, entry in table.items():
        programs: list[int | None] = [
            number for number in entry.get("programs", ()) if (0, number) in have and number not in font.without
        ]
        if "drums" in entry and any(bank == 128 for bank, _ in have):
            programs = [None]
        wanted = max(count // 4, 2) if entry["play"] == "effect" else count
        for number in range(wanted if programs else 0):
            parts.append(Part(kind, number, programs[number % len(programs)], tuple(entry["keys"]), entry["play"]))
    return parts


def trimmed(waveform: Tensor, *, below: float = 0.004) -> Tensor:
    """Without the silence at the end: [T] -> [T' <= T]; what stays below this part of the peak is silence."""
    loud = (waveform.abs() > below * waveform.abs().max()).nonzero()
    return waveform[: int(loud[-1]) + RATE // 20] if len(loud) else waveform[:0]
