"""Complete checkpoints of a run: a run that is killed while it saves leaves an incomplete one."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from audio2img_core.storage.files import whole_file

MARK = "whole"
"""Written into a checkpoint's folder when everything else in it is on the disk."""


def mark_whole(folder: str | os.PathLike[str]) -> None:
    """Mark a checkpoint as complete, after its files are flushed to the disk.

    Raises:
        OSError: The mark cannot be written, for example because the disk is full.
    """
    folder = Path(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    with whole_file(folder / MARK):
        pass


def whole_checkpoints(output: str | os.PathLike[str]) -> list[Path]:
    """Return the complete checkpoints in a run's folder, sorted by step."""
    return [path for path in _checkpoints(output) if (path / MARK).is_file()]


def has_ended(checkpoint: str | os.PathLike[str]) -> bool:
    """Tell whether the training that wrote a complete checkpoint had reached its last step or stopped early."""
    state = json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return state["global_step"] >= state["max_steps"] > 0 or bool(control.get("should_training_stop"))


def remove_broken(output: str | os.PathLike[str]) -> list[Path]:
    """Remove incomplete checkpoints of a run that was killed; return their folders."""
    broken = [path for path in _checkpoints(output) if not (path / MARK).is_file()]
    for path in broken:
        shutil.rmtree(path)
    return broken


def rotate(output: str | os.PathLike[str], limit: int | None, *, best: int | None) -> None:
    """Remove the oldest complete checkpoints beyond `limit` (None or 0 = keep all), never the last one or the best.

    The mark goes first: a checkpoint that is half removed when the run is killed does not count as complete.
    """
    found = whole_checkpoints(output)
    spared = {len(found) - 1} | {i for i, path in enumerate(found) if _step(path) == best}
    surplus = max(len(found) - limit, 0) if limit else 0
    for path in [path for i, path in enumerate(found) if i not in spared][:surplus]:
        (path / MARK).unlink()
        shutil.rmtree(path)


def _checkpoints(output: str | os.PathLike[str]) -> list[Path]:
    folder = Path(output)
    found = folder.iterdir() if folder.is_dir() else ()
    steps = {path: _step(path) for path in found if path.is_dir()}
    return sorted((path for path, step in steps.items() if step is not None), key=lambda path: steps[path] or 0)


def _step(path: Path) -> int | None:
    match = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(match[1]) if match else None
