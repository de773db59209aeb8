"""What the losses share: precision, weights of positions, checks of shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-8
"""Least norm to divide by, as in torch.cosine_similarity."""


def in_float32(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run `loss(audio, text, ...)` without autocast and with its two tensors in float32, or float64 if audio is."""

    @functools.wraps(loss)
    def wrapper(audio: Tensor, text: Tensor, **options) -> Tensor:
        if audio.shape != text.shape:
            raise ValueError(f"audio {list(audio.shape)} and text {list(text.shape)} must have the same shape")
        if not audio.numel():
            raise ValueError(f"audio and text are empty: {list(audio.shape)}")
        with torch.autocast(audio.device.type, enabled=False):
            audio = full_precision(audio)
            return loss(audio, text.to(audio.dtype), **options)

    return wrapper


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32, or float64 where it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def weighted_mean(values: Tensor, position_weights: Tensor | None) -> Tensor:
    """Mean of values [B, T]; 0 where all the weights are 0."""
    if position_weights is None:
        return values.mean()
    weights = expand_weights(position_weights, values)
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)


def expand_weights(weights: Tensor, values: Tensor) -> Tensor:
    """Position weights [T] or [B, T] as [B, T], like values [B, T]."""
    if weights.shape not in (values.shape, values.shape[1:]):
        raise ValueError(
            f"position_weights must have shape {list(values.shape[1:])} or {list(values.shape)}, "
            f"not {list(weights.shape)}"
        )
    return weights.to(values).expand_as(values)


def check_tokens(tokens: Tensor) -> None:
    if tokens.ndim != 3:
        raise ValueError(f"tokens must have shape [B, T, D], not {list(tokens.shape)}")


def check_pooled(pooled: Tensor) -> None:
    if pooled.ndim != 2:
        raise ValueError(f"pooled embeddings must have shape [B, P], not {list(pooled.shape)}")
