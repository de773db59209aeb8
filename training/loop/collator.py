"""Batches of clips with their captions' places in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from audio2img_core.audio.mel import MIN_SAMPLES

from ..data.dataset import collate
from ..teacher.captions import CaptionCache


class Collator:
    """Makes batches of `data.collate` with the rows of their captions in the cache.

    rows [B] is the row of the clip's caption, -1 where it is not in the cache; positives [B, most_captions] are the
    rows of all captions of the clip, -1 where there are fewer. In evaluation a clip that could not be read keeps its
    place, as a moment of silence without captions: every process must have batches of one size.

    Args:
        captions: Cache of the teacher's captions.
        training: Clips that could not be read are left out.
        most_captions: Captions of one clip, at most.
    """

    def __init__(self, captions: CaptionCache, *, training: bool, most_captions: int):
        self.captions, self.training, self.most = captions, training, most_captions

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(items)
        if not self.training and len(batch["keys"]) < len(items):
            batch = self._with_gaps(batch, items)
        batch["rows"] = torch.tensor([self._row(caption) for caption in batch["caption"]], dtype=torch.int64)
        rows = [[self._row(caption) for caption in captions[: self.most]] for captions in batch["captions"]]
        full = [row + [-1] * (self.most - len(row)) for row in rows]
        batch["positives"] = torch.tensor(full, dtype=torch.int64).reshape(len(rows), self.most)
        return batch

    def _row(self, caption: str) -> int:
        return self.captions.row(caption) if caption in self.captions else -1

    @staticmethod
    def _with_gaps(batch: dict[str, Any], items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        places = torch.tensor([i for i, item in enumerate(items) if item["length"]], dtype=torch.int64)
        size = batch["waveform"].shape[1]
        waveform = torch.zeros(len(items), max(size, MIN_SAMPLES))
        lengths = torch.full((len(items),), MIN_SAMPLES)
        waveform[places, :size], lengths[places] = batch["waveform"], batch["lengths"]
        texts = {"caption": "caption", "captions": "captions", "keys": "key"}
        texts = {name: [item[field] for item in items] for name, field in texts.items()}
        return {**batch, "waveform": waveform, "lengths": lengths, **texts}
