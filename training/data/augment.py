"""Augmentations as pure functions; every random number comes from the generator that is handed in."""

from __future__ import annotations

import torch
from torch import Tensor

from audio2img_core.audio.mel import FEATURE_DIM, NUM_MELS, STACK

_SILENT_RMS = 1e-8  # a level relative to less than this means nothing


def crop_offset(length: int, size: int, generator: torch.Generator) -> int:
    """First sample of a crop of `size` out of `length` samples, uniform; 0 where nothing is left to choose."""
    draw = float(torch.rand((), generator=generator, device=generator.device))
    return min(int(draw * (length - size + 1)), length - size) if length > size else 0


def random_crop(waveform: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """`size` samples from a uniform place: [..., T] -> [..., min(T, size)].

    Raises:
        ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"a crop needs at least 1 sample, not {size}")
    offset = crop_offset(waveform.shape[-1], size, generator)
    return waveform[..., offset : offset + size]


def repeat_pad(waveform: Tensor, size: int) -> Tensor:
    """The sound again and again until it fills `size` samples: [..., T] -> [..., max(T, size)].

    Raises:
        ValueError: an empty waveform, which cannot be repeated.
    """
    length = waveform.shape[-1]
    if length == 0:
        raise ValueError("an empty waveform cannot be repeated")
    if length >= size:
        return waveform
    return waveform[..., torch.arange(size, device=waveform.device) % length]


def gain(waveform: Tensor, generator: torch.Generator, *, max_db: float) -> Tensor:
    """[..., T] louder or softer by one amount, uniform in -max_db..max_db decibels.

    Log-mel features with zero mean per clip hardly notice it; where their mean is taken over more than the clip
    does, or silence lies at the floor of the logarithm, it counts.

    Raises:
        ValueError: `max_db` is negative.
    """
    if max_db < 0:
        raise ValueError(f"max_db must be at least 0, not {max_db}")
    draw = float(torch.rand((), generator=generator, device=generator.device))
    return waveform * 10.0 ** ((2.0 * draw - 1.0) * max_db / 20.0)


def mix(a: Tensor, b: Tensor, level_db: float) -> Tensor:
    """Two sounds at once: [Ta] and [Tb] -> [max(Ta, Tb)].

    `b` is scaled so that its root mean square lies `level_db` decibels above that of `a`; where the sum leaves
    -1..1, all of it is scaled back. The idea is that of between-class learning (arXiv:1711.10282).
    """
    scale = 10.0 ** (level_db / 20.0) * a.square().mean().sqrt() / b.square().mean().sqrt().clamp(min=_SILENT_RMS)
    mixed = a.new_zeros(max(len(a), len(b)))
    mixed[: len(a)] += a
    mixed[: len(b)] += scale * b
    return mixed / mixed.abs().max().clamp(min=1.0)


def mask_features(
    features: Tensor,
    mask: Tensor | None,
    generator: torch.Generator,
    *,
    time_masks: int,
    time_width: int,
    freq_masks: int,
    freq_width: int,
    max_time_share: float = 0.2,
    first: int = 0,
    of: int | None = None,
) -> Tensor:
    """Time and frequency masking of SpecAugment (arXiv:1904.08779, section 2), another draw for each clip.

    A mask is `w` frames or bins wide, w uniform in 0..width, at a uniform place; masked values become 0, the mean
    of normalised features.

    Args:
        features: [B, F, 160] float on any device, normalised; each is two stacked frames of 80 mel bins, and a
            frequency mask hits the same mel bins of both.
        mask: [B, F], 1 for valid features (a prefix of each row); None = all. Time masks lie within them.
        generator: on any device; the draws are made there.
        time_masks: number of time masks of a clip. time_width: the widest, in features of 20 ms.
        freq_masks: number of frequency masks of a clip. freq_width: the widest, in mel bins.
        max_time_share: no time mask is wider than this share of the valid features (the paper's p).
        first, of: these are the clips from `first` on of a batch of so many, whose other clips are elsewhere: all
            draws are made, so that a clip's do not depend on how the batch is shared out. None = these are all.

    Returns:
        [B, F, 160] of the same dtype, on the same device.

    Raises:
        ValueError: features are not [B, F, 160], or a count or width is out of range.
    """
    if features.ndim != 3 or features.shape[-1] != FEATURE_DIM:
        raise ValueError(f"features must be [B, F, {FEATURE_DIM}], not {list(features.shape)}")
    if min(time_masks, time_width, freq_masks, freq_width) < 0 or freq_width > NUM_MELS:
        raise ValueError(
            f"mask counts and widths must be at least 0 and freq_width at most {NUM_MELS}, not"
            f" time {time_masks} x {time_width}, freq {freq_masks} x {freq_width}"
        )
    batch, frames, _ = features.shape
    full = torch.full((batch,), frames, device=features.device)
    valid = full if mask is None else mask.to(features.device).sum(1)
    widest = (max_time_share * valid).long().clamp(max=time_width)
    rows = slice(first, first + batch), batch if of is None else of
    in_time = _stripes(widest, valid, time_masks, frames, generator, *rows)
    bins = torch.full_like(full, NUM_MELS)
    in_freq = _stripes(bins.clamp(max=freq_width), bins, freq_masks, NUM_MELS, generator, *rows).repeat(1, STACK)
    return features.masked_fill(in_time[:, :, None] | in_freq[:, None, :], 0.0)


def _stripes(
    widest: Tensor, length: Tensor, count: int, size: int, generator: torch.Generator, rows: slice, of: int
) -> Tensor:
    """[B, size] bool, True inside any of `count` random stripes of at most `widest` [B] within `length` [B].

    These are the `rows` of draws for `of` of them.
    """
    draws = torch.rand(2, of, count, generator=generator, device=generator.device)[:, rows].to(length.device)
    width = (draws[0] * (widest[:, None] + 1)).long().clamp(max=widest[:, None])
    start = (draws[1] * (length[:, None] - width + 1)).long()
    place = torch.arange(size, device=length.device)[None, None]
    return ((place >= start[..., None]) & (place < (start + width)[..., None])).any(1)
