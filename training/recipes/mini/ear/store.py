"""Sounds packed for training: one file of 16-bit samples at 32 kHz, and an index of what lies where.

`audio.i16` holds the clips one behind the other, `index.jsonl` one row a clip: `start` and `samples` in that file, and
what is known of the clip. Both grow at their ends only, so a stopped build resumes.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .teacher import RATE

log = logging.getLogger(__name__)
PEAK = 0.9
_BLOCK = RATE // 4  # samples of one step of the envelope
_QUIET = 0.05  # a block is quiet whose RMS is below this part of the clip's loudest block


class StoreWriter:
    """Appends clips to a store.

    Args:
        folder: of the store; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.audio, self.index = folder / "audio.i16", folder / "index.jsonl"
        self.rows = read_index(folder)
        self.end = max((row["start"] + row["samples"] for row in self.rows), default=0)
        self.ids = {row["id"] for row in self.rows}
        if self.audio.exists():
            os.truncate(self.audio, 2 * self.end)  # what a stopped build wrote without its row

    def add(self, waveform: Tensor, row: dict) -> bool:
        """Append a clip [T] float32 at 32 kHz, scaled to a peak of 0.9; False if it is silent or already there.

        Args:
            row: what is known of it; `id` must be its own.
        """
        peak = float(waveform.abs().max()) if len(waveform) else 0.0
        if row["id"] in self.ids or peak < 1e-3 or not np.isfinite(peak):
            return False
        samples = (waveform * (PEAK / peak * 32767)).round().to(torch.int16).numpy()
        with self.audio.open("ab") as file:
            file.write(samples.tobytes())
        full = {**row, "start": self.end, "samples": len(samples)}
        with self.index.open("a", encoding="utf-8") as file:
            file.write(json.dumps(full, ensure_ascii=False) + "\n")
        self.rows.append(full)
        self.ids.add(row["id"])
        self.end += len(samples)
        return True


def read_index(folder: Path) -> list[dict]:
    """The rows of a store; [] where there is none. A last line that was not written to its end is left out."""
    path = folder / "index.jsonl"
    if not path.is_file():
        return []
    content = path.read_text(encoding="utf-8")
    whole = content[: content.rfind("\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole.encode()))
    return [json.loads(line) for line in whole.splitlines()]


def write_index(folder: Path, rows: Iterable[dict]) -> None:
    """Replace the index at once, say with other splits."""
    partial = folder / "index.part"
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(folder / "index.jsonl")


def read_audio(folder: Path) -> Tensor:
    """All samples of a store, [N] int16: mapped, not read."""
    path = folder / "audio.i16"
    if not path.is_file() or path.stat().st_size < 2:
        raise FileNotFoundError(f"{path}: no sounds; build them with python -m training.recipes.mini.ear.build")
    return torch.from_file(str(path), shared=False, size=path.stat().st_size // 2, dtype=torch.int16)


def loud_starts(audio: Tensor, rows: list[dict], seconds: float) -> list[Tensor]:
    """Where a crop of each row may start: offsets in samples, on a grid of 0.25 s, of crops that are not quiet.

    Args:
        audio: [N] int16. rows: of the index. seconds: length of a crop.

    Returns:
        for each row int64 offsets relative to its `start`; [0] for rows shorter than a crop.
    """
    size = round(seconds * RATE)
    starts = []
    for row in rows:
        if row["samples"] <= size:
            starts.append(torch.zeros(1, dtype=torch.long))
            continue
        clip = audio[row["start"] : row["start"] + row["samples"]]
        whole = clip[: len(clip) // _BLOCK * _BLOCK].view(-1, _BLOCK).float()
        level = whole.square().mean(1).sqrt()
        blocks = size // _BLOCK
        best = level[: len(level) // 1].unfold(0, min(blocks, len(level)), 1).amax(1)
        offsets = torch.arange(len(best))[best >= _QUIET * level.max()] * _BLOCK
        starts.append(offsets.clamp(max=row["samples"] - size))
    return starts
