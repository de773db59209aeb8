"""Steps make a walk: short single sounds of one package strung together, at a pace and with some variety."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audio2img_core.audio.io import SAMPLE_RATE

from .clips import load
from .soundfonts import seeded

SHORT = 1.2  # seconds; longer recordings are no single sounds


def strung(sounds: list[Tensor], every: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """A few of these sounds again and again: [T] float32 at 16 kHz, 2 to 5 seconds.

    Args:
        sounds: [T] float32 each, at 16 kHz.
        every: shortest and longest pace, seconds from one to the next.
    """
    chosen = [
        sounds[index] for index in rng.choice(len(sounds), min(len(sounds), int(rng.integers(1, 6))), replace=False)
    ]
    pace, jitter = float(rng.uniform(*every)), float(rng.uniform(0.02, 0.25))
    seconds, at = float(rng.uniform(2.0, 5.0)), 0.0
    whole = torch.zeros(round((seconds + SHORT) * SAMPLE_RATE))
    while at < seconds:
        sound = chosen[rng.integers(len(chosen))] * float(rng.uniform(0.5, 1.0))
        start = round(at * SAMPLE_RATE)
        whole[start : start + len(sound)] += sound
        at += pace * float(np.exp(jitter * rng.standard_normal()))
    return whole


def series(rows: list[dict], concept: str, entry: dict, output: Path, count: int) -> list[tuple[str, str, Tensor]]:
    """`count` series for each package that a concept's `series` names: package, name, and waveform.

    Args:
        rows: of the recordings, of which those of the named packages are used, as far as they are short.
        entry: the concept's entry in the table.
        output: the folder of the recordings.

    Raises:
        ValueError: a package is held out, or has no short recording.
    """
    made = []
    for package in entry["series"]["of"]:
        if package in entry["test"] or package in entry.get("valid", ()):
            raise ValueError(f"{concept}: {package} is held out, so no series can be made of it")
        mine = [row for row in rows if row["concept"] == concept and row["source"] == package]
        sounds = [load(output / row["audio"]) for row in mine if row["seconds"] <= SHORT and not row["synthesised"]]
        if not sounds:
            raise ValueError(f"{concept}: {package} has no short recording to make a series of")
        for number in range(count):
            rng = seeded("series", concept, package, number)
            made.append((package, f"series-{number:03d}", strung(sounds, tuple(entry["series"]["every"]), rng)))
    return made
