"""The figures of a checkpoint on a split, without a training run."""

from __future__ import annotations

import os
import tempfile
from types import SimpleNamespace

import torch
from torch.utils.data import DataLoader

from audio2img_core.checks import positive_int
from audio2img_core.devices import resolve_device
from audio2img_core.encoder.model import AudioEncoder

from ..config import item_seconds
from ..data.config import DataConfig
from ..data.dataset import ClipDataset
from ..data.features import batch_features
from ..data.sources import distinct_captions, held_in_memory, open_source
from ..loop.trainer import Collator
from ..teacher.captions import CaptionCache
from ..teacher.text_encoder import OnStep, Teacher
from .evaluate import Evaluator, Judged


@torch.no_grad()
def judge(
    encoder: str | os.PathLike[str] | AudioEncoder,
    data: str | os.PathLike[str],
    teacher: str | os.PathLike[str] | Teacher,
    *,
    split: str | None = None,
    captions: str | os.PathLike[str] | None = None,
    batch_size: int = 16,
    workers: int = 0,
    device: torch.device | str | None = None,
    on_step: OnStep | None = None,
) -> tuple[dict[str, float], Judged, int]:
    """Judge the first window of each clip against the distinct captions of the split.

    Args:
        encoder: a checkpoint, or the model itself.
        data: as `sources.open_source` takes it; split: of it.
        teacher: of the encoder's target.
        captions: folder of the cache; None = none is kept.
        batch_size: clips at once. workers: processes that decode.
        device: None = the GPU where there is one.
        on_step: called as on_step(batches done, batches in all).

    Returns:
        The figures of `metrics.evaluate_tokens` with `clips`, `captions` and `unread`, the mean target being that of
        the split; the tokens that were judged; and the position in the prompt of their first.

    Raises:
        ValueError, FileNotFoundError: an encoder, data or teacher that cannot be, or no clip that can be read.
    """
    batch_size, device = positive_int(batch_size, "batch_size"), resolve_device(device)
    source = held_in_memory(open_source(data, split=split))
    if not isinstance(encoder, AudioEncoder):
        encoder = AudioEncoder.from_pretrained(encoder)
    encoder = encoder.to(device).eval()
    if not isinstance(teacher, Teacher):
        teacher = Teacher.from_pretrained(teacher, encoder.config.target, device=device)
    window = encoder.config.window
    config = DataConfig(window_seconds=item_seconds(window))
    with tempfile.TemporaryDirectory() as folder:
        cache = CaptionCache(captions or folder, teacher)
        cache.add(distinct_captions(source))
        loader = DataLoader(
            ClipDataset(source, config, training=False),
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=Collator(
                cache, training=False, most_captions=max(len(captions) for captions in source.captions())
            ),
        )
        tokens, pooled, rows = [], [], []
        for number, batch in enumerate(loader):
            features, mask = batch_features(batch["waveform"].to(device), batch["lengths"], window)
            heard = encoder(features, mask)
            tokens.append(heard.tokens.float().cpu())
            pooled.append(None if heard.pooled is None else heard.pooled.float().cpu())
            rows.append(batch["right"])
            if on_step is not None:
                on_step(number + 1, len(loader))
        positions = encoder.config.positions
        evaluator = Evaluator(cache, positions, device=device)
        predictions = torch.cat(tokens) if pooled[0] is None else (torch.cat(tokens), torch.cat(pooled))
        figures = evaluator(SimpleNamespace(predictions=predictions, label_ids=torch.cat(rows)))
        return figures, evaluator.judged, positions.start
