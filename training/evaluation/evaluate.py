"""The metrics of a checkpoint on a split, without a training run."""

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
from ..loop.collator import Collator
from ..teacher.captions import CaptionCache
from ..teacher.text_encoder import OnStep, Teacher
from .evaluator import Evaluated, Evaluator


@torch.no_grad()
def evaluate(
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
) -> tuple[dict[str, float], Evaluated, int]:
    """Evaluate the first window of each clip against the distinct captions of the split.

    Args:
        encoder: Checkpoint, or the model itself.
        data: Clips with captions, as `sources.open_source` takes them.
        teacher: Teacher of the encoder's target.
        split: Split of the data.
        captions: Folder of the cache of captions; None = not kept.
        batch_size: Clips encoded at once.
        workers: Processes that decode.
        device: Device; None = the GPU where there is one.
        on_step: Called as on_step(batches done, batches in all).

    Returns:
        The metrics of `metrics.evaluate_tokens` with `clips`, `captions` and `unread` (the mean prompt is the split's
        own); the tokens that were evaluated; and the position in the prompt of the first of them.

    Raises:
        ValueError, FileNotFoundError: an impossible encoder, data or teacher, or no clip that can be read.
    """
    batch_size, device = positive_int(batch_size, "batch_size"), resolve_device(device)
    source = held_in_memory(open_source(data, split=split))
    if not isinstance(encoder, AudioEncoder):
        encoder = AudioEncoder.from_pretrained(encoder)
    encoder = encoder.to(device).eval()  # pyright: ignore[reportArgumentType, reportCallIssue]
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
            output = encoder(features, mask)
            tokens.append(output.tokens.float().cpu())
            pooled.append(None if output.pooled is None else output.pooled.float().cpu())
            rows.append(batch["positives"])
            if on_step is not None:
                on_step(number + 1, len(loader))
        positions = encoder.config.positions
        evaluator = Evaluator(cache, positions, device=device)
        predictions = torch.cat(tokens) if pooled[0] is None else (torch.cat(tokens), torch.cat(pooled))
        metrics = evaluator(SimpleNamespace(predictions=predictions, label_ids=torch.cat(rows)))
        assert evaluator.last is not None
        return metrics, evaluator.last, positions.start
