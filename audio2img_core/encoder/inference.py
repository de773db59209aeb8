"""From the waveform of clips to their embeddings: mel frames, windows, batches of windows through the encoder."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..audio.mel import FRAME_HOP, FRAME_LENGTH, FRAMES_PER_SECOND, MIN_SAMPLES, NUM_MELS, mel_frames, normalize
from ..audio.resample import parts_of
from .embeddings import AudioEmbeddings
from .windows import Window, WindowConfig, plan_windows, window_features

if TYPE_CHECKING:
    from .model import AudioEncoder

logger = logging.getLogger(__name__)

_MEL_CHUNK = 60 * FRAMES_PER_SECOND  # mel frames computed at once: an hour of audio needs no hour of spectra


def encode_windows(
    encoder: AudioEncoder,
    windows: Iterator[tuple[Window, Tensor]],
    config: WindowConfig,
    batch_size: int,
    on_step: Callable[[int], None] | None = None,
) -> AudioEmbeddings:
    """Encode windows in batches, in evaluation mode; the encoder's own mode is restored.

    Args:
        encoder: The encoder.
        windows: Windows and their mel frames [n, 80], as `cut_windows` gives them.
        config: How the windows are normalized and padded.
        batch_size: Windows encoded at once; halved, with a warning, where a GPU runs out of memory.
        on_step: Called with the number of windows done, once for each window.

    Returns:
        AudioEmbeddings on the encoder's device in float32.

    Raises:
        ValueError: there is no window.
    """
    were_training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    plan: list[Window] = []
    tokens: list[Tensor] = []
    pooled: list[Tensor] = []
    try:
        waiting: list[tuple[Window, Tensor]] = []
        while waiting := [*waiting, *itertools.islice(windows, max(batch_size - len(waiting), 0))]:
            batch = waiting[:batch_size]
            try:
                encoded, pool = _encode_batch(encoder, [mel for _, mel in batch], config)
            except torch.cuda.OutOfMemoryError:
                if batch_size == 1:
                    raise
                logger.warning("out of memory: %d windows at once instead of %d", batch_size // 2, batch_size)
                batch_size //= 2
                torch.cuda.empty_cache()
                continue
            waiting = waiting[batch_size:]
            # Copies: what a compiled encoder returns, its next run may overwrite.
            tokens.append(encoded.to(torch.float32, copy=True))
            if pool is not None:
                pooled.append(pool.to(torch.float32, copy=True))
            for window, _ in batch:
                plan.append(window)
                if on_step is not None:
                    on_step(len(plan))
    finally:
        for module in were_training:
            module.training = True
    if not plan:
        raise ValueError("no sound to encode: there is not one sample")
    return AudioEmbeddings(
        tokens=torch.cat(tokens),
        pooled=torch.cat(pooled) if pooled else None,
        clips=tuple(window.clip for window in plan),
        starts=tuple(window.start / FRAMES_PER_SECOND for window in plan),
        durations=tuple(window.length / FRAMES_PER_SECOND for window in plan),
        space=encoder.space,
    )


def cut_windows(
    blocks: Iterable[Tensor], config: WindowConfig, clip: int, device: torch.device
) -> Iterator[tuple[Window, Tensor]]:
    """Yield the windows of one clip and their mel frames [n, 80], each as soon as its audio is there.

    Args:
        blocks: The clip's waveform, mono, 16 kHz, in blocks [T] of any lengths.
        config: Length and distance of the windows.
        clip: The clip's number.
        device: Where the mel frames are computed.
    """
    mels = _mels(blocks, device)
    if config.normalize == "clip":
        mels = _normalized(list(mels))
    size, hop = config.size_frames, config.hop_frames
    kept, first, done = None, 0, 0  # frames from `first` on; windows handed on
    for mel in mels:
        kept = mel if kept is None else torch.cat([kept, mel])
        # Whole windows of what has come are windows of the whole clip too.
        whole = [w for w in plan_windows(first + len(kept), size, hop, clip=clip) if w.length == size]
        for window in whole[done:]:
            yield window, kept[window.start - first :][:size]
        if len(whole) > done:
            done = len(whole)
            last = min(whole[-1].start + hop, first + len(kept))
            kept, first = kept[last - first :], last
    if kept is not None:
        for window in plan_windows(first + len(kept), size, hop, clip=clip)[done:]:
            yield window, kept[window.start - first :][: window.length]


def _mels(blocks: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield mel frames [n, 80] of a mono clip that comes in blocks [T]."""
    overlap = FRAME_LENGTH - FRAME_HOP
    none_yet = True
    for part in parts_of(blocks, _MEL_CHUNK * FRAME_HOP + overlap, overlap=overlap):
        if none_yet and len(part) < MIN_SAMPLES:
            part = part.repeat(-(-MIN_SAMPLES // len(part)))
        if len(part) >= FRAME_LENGTH:
            none_yet = False
            yield mel_frames(part[None].to(device))[0]


def _normalized(mels: list[Tensor]) -> Iterator[Tensor]:
    """`normalize` of one clip that lies in parts [n, 80], in their own memory: the frames of an hour are 115 MB."""
    if not mels:
        return
    lengths = [len(mel) for mel in mels]
    count = torch.tensor([sum(lengths)], device=mels[0].device)
    for i in range(0, NUM_MELS, 8):
        some = slice(i, i + 8)
        columns = normalize(torch.cat([mel[:, some] for mel in mels])[None], count)[0]
        for mel, part in zip(mels, columns.split(lengths), strict=True):
            mel[:, some] = part
    mels.reverse()
    while mels:
        yield mels.pop()


def _encode_batch(encoder: AudioEncoder, mels: list[Tensor], config: WindowConfig) -> tuple[Tensor, Tensor | None]:
    # The conv head gives its number of tokens for a full window only; the query head takes any masked length.
    size = None if encoder.config.head.kind == "query" and config.padding == "mask" else config.size_frames
    features, mask = window_features(mels, config, size=size)
    output = encoder(features, mask)
    return output.tokens, output.pooled
