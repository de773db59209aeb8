"""The learned temperature of the contrastive losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .common import full_precision

TEMPERATURES = (0.01, 1.0)
"""Range of a learned temperature: CLIP clips the logit scale at 100 (arXiv:2103.00020, 2.5); above 1 nothing is told
apart."""


class LogitScale(nn.Module):
    """A learned temperature, kept as the logarithm of its inverse (CLIP, arXiv:2103.00020) and within `TEMPERATURES`.

    The value is clamped where it is used, not the parameter after the step: nothing has to be called after each step
    (by a Trainer, EMA or sharding that may not let it). The gradient at the bound is that of the bound; only its part
    that would carry the parameter further out is dropped. So a parameter that overshot comes back as soon as the loss
    asks for it, where `clamp` alone would leave it without a gradient for good.
    """

    def __init__(self, temperature: float = 0.15, *, log_scale: nn.Parameter | None = None):
        """Start at `temperature`; or learn `log_scale`, a 0-d parameter of another module such as the encoder's.

        Raises:
            ValueError: temperature outside of `TEMPERATURES`.
        """
        super().__init__()
        low, high = TEMPERATURES
        if not low <= temperature <= high:
            raise ValueError(f"a learned temperature must lie within {low} and {high}, not {temperature!r}")
        start = nn.Parameter(torch.tensor(-math.log(temperature))) if log_scale is None else log_scale
        self.log_scale = start.requires_grad_()

    def forward(self, log_scale: Tensor | None = None) -> Tensor:
        """The temperature [], in float32 at least; `log_scale` [] in the place of the parameter, where it has passed
        through the module that wraps it."""
        low, high = (-math.log(bound) for bound in reversed(TEMPERATURES))
        log_scale = self.log_scale if log_scale is None else log_scale
        return torch.exp(-_InwardClamp.apply(full_precision(log_scale), low, high))


class _InwardClamp(torch.autograd.Function):
    """x.clamp(low, high) whose gradient is dropped only where a step against it would lead further out."""

    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        (x,), (low, high) = ctx.saved_tensors, ctx.bounds
        outward = ((x > high) & (grad < 0)) | ((x < low) & (grad > 0))
        return grad.masked_fill(outward, 0), None, None
