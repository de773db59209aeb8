"""What a run writes while it trains: `metrics.jsonl` for programs, short lines for people."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from audio2img_core.storage.files import whole_file

from ..evaluation.metrics import beats_baseline
from .average import WeightAverage

_LAST = {"final_loss", "train_runtime"}  # in the entries at the end of training, which is not the end any more
_SHOWN = ("loss", "learning_rate", "grad_norm", "temperature")
_EVALUATED = ("loss", "cosine", "norm_ratio", "a2t_r1", "a2t_r5", "t2a_r1", "effective_rank")


class MetricsFile(TrainerCallback):
    """Everything that is logged, one JSON object a line with its step. A run that goes on drops what came after
    the step it goes on from, so that no step is there twice."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            before = read_metrics(self.path)
            kept = [line for line in before if line.get("step", 0) <= state.global_step and not _LAST & line.keys()]
            with whole_file(self.path) as partial:
                partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            # JSON has no NaN: null instead.
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in logs.items()}
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **finite}) + "\n")


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last one that a killed run left half written is left out."""
    path, lines = Path(path), []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return lines


class Averaging(TrainerCallback):
    """Takes each step's weights into their average."""

    def __init__(self, average: WeightAverage):
        self.average = average

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.update()


class Progress(TrainerCallback):
    """A bar on a terminal, and a line with the few metrics that a person follows for each entry of the log."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            shown = f"steps {state.global_step} to {state.max_steps}, a line every {args.logging_steps:g}"
            tqdm.write(f"training on {args.device}: {shown}", file=sys.stderr)
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True, disable=None
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs and (line := summary(logs)):
            tqdm.write(f"step {state.global_step}: {line}", file=sys.stderr)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class TensorBoard(TensorBoardCallback):
    """Trainer's, which stays open for the last evaluation, after training."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tb_writer:
            self.tb_writer.flush()


def summary(logs: Mapping[str, Any]) -> str:
    """A log entry in one line; empty where it has nothing to tell."""
    for prefix in ("eval", "final"):
        if f"{prefix}_cosine" in logs:
            metrics = {
                name.removeprefix(f"{prefix}_"): value for name, value in logs.items() if name.startswith(prefix)
            }
            told = [f"{name} {metrics[name]:.4g}" for name in _EVALUATED if name in metrics]
            held, reason = beats_baseline(metrics) if "mean_cosine" in metrics else (True, "")
            short = "below the mean-prompt baseline" if prefix == "eval" else reason
            return f"{prefix}: {', '.join(told)}" + ("" if held else f"; {short}")
    return ", ".join(f"{name} {logs[name]:.4g}" for name in _SHOWN if isinstance(logs.get(name), (int, float)))
