"""Two kinds of sound that mini does not know, with captions beside them: `python docs/own_sounds.py FOLDER`.

docs/training.md teaches mini with them; put your own recordings in their place.
"""

from __future__ import annotations

import argparse
import random
import wave
from collections.abc import Iterable
from pathlib import Path

RATE, SECONDS, CLIPS = 16_000, 3, 12  # Hz, of a clip, of each kind


def write_clip(path: Path, samples: Iterable[float], caption: str) -> None:
    """Mono 16-bit WAV of samples in -1..1, and the caption beside it."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(b"".join(round(20_000 * s).to_bytes(2, "little", signed=True) for s in samples))
    path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")


def write_sounds(folder: Path) -> None:
    """Clicks in an even beat, which are a clock, and a low buzz that wavers, which is a bee."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    times = [i / RATE for i in range(SECONDS * RATE)]
    for number in range(CLIPS):
        beat, pitch = chance.uniform(0.3, 0.6), chance.uniform(150, 250)
        ticks = [chance.uniform(-1, 1) * 0.1 ** (t % beat * 100) for t in times]
        write_clip(folder / f"ticking-{number}.wav", ticks, "a clock")
        write_clip(folder / f"buzzing-{number}.wav", (t * (pitch + t % 0.3) % 1 - 0.5 for t in times), "a bee")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    write_sounds(parser.parse_args().folder)
