"""A training loop that goes on where it was stopped: for the parts of `mini` that are no audio encoder."""

from __future__ import annotations

import json
import logging
import math
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from audio2img_core.storage.files import whole_file

from ...data.dataset import seeded
from ...loop.average import WeightAverage

logger = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)
Loss = Callable[[torch.Generator], dict[str, Tensor]]


def train(
    name: str,
    module: Module,
    loss: Loss,
    folder: Path,
    *,
    steps: int,
    learning_rate: float,
    warmup: int = 100,
    weight_decay: float = 0.01,
    ema_decay: float = 0.0,
    settings: Mapping[str, object] | None = None,
    save_seconds: float = 120.0,
    log_every: int = 50,
) -> Module:
    """Train with AdamW and a cosine of rates; or go on from `folder/NAME.pt`.

    Args:
        name: of the part, for its files and the log.
        module: what learns; moved to no device: it stays where it is.
        loss: called with a generator that depends on the step only; returns "loss" and parts for the log.
        folder: for the checkpoint and `NAME.jsonl`, the log.
        steps: in all.
        learning_rate: the highest, after `warmup` steps. weight_decay: of matrices and kernels.
        ema_decay: the average of the weights that the module has at the end; 0 = none.
        settings: what else the result depends on; a checkpoint of others is not gone on with.
        save_seconds: between checkpoints.

    Returns:
        The module, in evaluation mode.

    Raises:
        ValueError: the checkpoint is of other settings, or the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    average = WeightAverage(module, ema_decay) if ema_decay else None
    file, start = folder / f"{name}.pt", 0
    given = {"steps": steps, "rate": learning_rate, "decay": weight_decay, "average": ema_decay, **(settings or {})}
    mark = zlib.crc32(json.dumps(given, sort_keys=True).encode())
    if file.is_file():
        state = torch.load(file, weights_only=True)
        if state["settings"] != mark:
            raise ValueError(f"{file}: was trained with other settings or data; choose another folder, or remove it")
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        if average is not None:
            average.load_state(state["average"])
    saved = began = time.monotonic()
    sums: dict[str, float] = {}
    module.train()
    for step in range(start, steps):
        rate = _rate(step, steps, warmup) * learning_rate
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(step)  # of dropout
        parts = loss(seeded(name, step))
        if not torch.isfinite(parts["loss"]):
            raise ValueError(f"{name}: the loss is {parts['loss'].item()} at step {step + 1}")
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if average is not None:
            average.update()
        for part, value in parts.items():
            sums[part] = sums.get(part, 0.0) + value.item()
        if (step + 1) % log_every == 0 or step + 1 == steps:
            count = min(step % log_every, step - start) + 1
            means = {part: round(value / count, 5) for part, value in sums.items()}
            seconds = (time.monotonic() - began) / (step + 1 - start)
            logger.info("%s: step %d of %d, %s, %.2f s a step", name, step + 1, steps, means, seconds)
            with open(folder / f"{name}.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps({"step": step + 1, **means}) + "\n")
            sums = {}
        if time.monotonic() - saved > save_seconds or step + 1 == steps:
            with whole_file(file) as partial:
                state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
                state["settings"] = mark
                torch.save(state | ({"average": average.state()} if average is not None else {}), partial)
            saved = time.monotonic()
    if average is not None:
        average.apply()
    return module.eval()


def _rate(step: int, steps: int, warmup: int) -> float:
    """Share of the highest rate: a straight line up, then a cosine down to a twentieth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
