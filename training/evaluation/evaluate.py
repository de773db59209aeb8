"""The figures of a whole split from what Trainer gathers of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..teacher.captions import CaptionCache
from .metrics import evaluate_tokens


@dataclass
class Judged:
    """A split as it was judged last: N clips, M distinct captions, T positions."""

    audio: Tensor  # [N, T, D] float32
    text: Tensor  # [M, T, D] float16
    right: list[list[int]]  # of each clip, the rows of its right captions in text
    captions: list[str]  # M texts


class Evaluator:
    """Trainer's `compute_metrics`: `metrics.evaluate_tokens` of the clips against the split's distinct captions.

    Args:
        captions: holds every caption of the split.
        positions: those of the prompt's 77 that the encoder's tokens stand for.
        mean_tokens: [T, D] the mean target of the training captions, the floor.
        mean_pooled: [P] the same of the pooled embeddings, where the target has some.
        device: where the sums are done.
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
        self.judged: Judged | None = None

    def __call__(self, prediction: Any) -> dict[str, float]:
        """Figures of an `EvalPrediction`: predictions tokens [N, T, D] (and pooled [N, P]); labels [N, K] rows of
        the right captions in the cache, below 0 where a clip has fewer, everywhere where it could not be read.

        Raises:
            ValueError: no clip of the split could be read.
        """
        outputs = prediction.predictions if isinstance(prediction.predictions, tuple) else (prediction.predictions,)
        rows = torch.as_tensor(prediction.label_ids)
        good = (rows >= 0).any(1)
        if not good.any():
            raise ValueError("none of the clips to judge by could be read: see skipped.csv")
        answers = [[row for row in given if row >= 0] for given in rows[good].tolist()]
        used = sorted({row for given in answers for row in given})
        place = {row: i for i, row in enumerate(used)}
        right = [[place[row] for row in given] for given in answers]
        audio = torch.as_tensor(outputs[0])[good].float().to(self.device)
        pooled = torch.as_tensor(outputs[1])[good].float().to(self.device) if len(outputs) > 1 else None
        text = self.captions.tokens(used, dtype=torch.float16)[:, self.positions]
        figures = evaluate_tokens(
            audio,
            text,
            right,
            content=self.captions.mask(used)[:, self.positions],
            pooled_audio=pooled,
            pooled_text=None if pooled is None else self.captions.pooled(used),
            mean_tokens=self.mean_tokens,
            mean_pooled=self.mean_pooled,
        )
        names = self.captions.captions
        self.judged = Judged(audio.cpu(), text, right, [names[row] for row in used])
        return {**figures, "clips": float(len(audio)), "captions": float(len(used)), "unread": float((~good).sum())}
