"""The metrics of a whole split from the outputs that Trainer gathers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..teacher.captions import CaptionCache
from .metrics import evaluate_tokens


@dataclass
class Evaluated:
    """The last evaluation of a split: N clips, M distinct captions, T positions."""

    audio: Tensor  # [N, T, D] float32
    text: Tensor  # [M, T, D] float16
    positives: list[list[int]]  # rows in text of the captions that are correct for each clip
    captions: list[str]  # M texts


class Evaluator:
    """Trainer's `compute_metrics`: `metrics.evaluate_tokens` of the clips against the split's distinct captions.

    Args:
        captions: holds every caption of the split.
        positions: Positions of the prompt's 77 that the encoder's tokens stand for.
        mean_tokens: [T, D] the mean prompt of the training captions, a baseline.
        mean_pooled: [P] the mean pooled embedding, where the target has one.
        device: Device that computes the metrics.
    """

    def __init__(
        self,
        captions: CaptionCache,
        positions: slice,
        *,
        mean_tokens: Tensor | None = None,
        mean_pooled: Tensor | None = None,
        device: torch.device | str = "cpu",
    ):
        self.captions, self.positions, self.device = captions, positions, device
        self.mean_tokens, self.mean_pooled = mean_tokens, mean_pooled
        self.last: Evaluated | None = None

    def __call__(self, prediction: Any) -> dict[str, float]:
        """Compute the metrics of an `EvalPrediction`.

        Its predictions are tokens [N, T, D] (and pooled [N, P]), its labels [N, K] the rows in the cache of the
        captions that are correct for a clip: below 0 where there are fewer, and all where it could not be read.

        Raises:
            ValueError: no clip of the split could be read.
        """
        outputs = prediction.predictions if isinstance(prediction.predictions, tuple) else (prediction.predictions,)
        rows = torch.as_tensor(prediction.label_ids)
        good = (rows >= 0).any(1)
        if not good.any():
            raise ValueError("none of the evaluation clips could be read: see skipped.csv")
        answers = [[row for row in given if row >= 0] for given in rows[good].tolist()]
        used = sorted({row for given in answers for row in given})
        place = {row: i for i, row in enumerate(used)}
        positives = [[place[row] for row in given] for given in answers]
        audio = torch.as_tensor(outputs[0])[good].float().to(self.device)
        pooled = torch.as_tensor(outputs[1])[good].float().to(self.device) if len(outputs) > 1 else None
        text = self.captions.tokens(used, dtype=torch.float16)[:, self.positions]
        metrics = evaluate_tokens(
            audio,
            text,
            positives,
            content=self.captions.mask(used)[:, self.positions],
            pooled_audio=pooled,
            pooled_text=None if pooled is None else self.captions.pooled(used),
            mean_tokens=self.mean_tokens,
            mean_pooled=self.mean_pooled,
        )
        names = self.captions.captions
        self.last = Evaluated(audio.cpu(), text, positives, [names[row] for row in used])
        return {**metrics, "clips": float(len(audio)), "captions": float(len(used)), "unread": float((~good).sum())}
