"""Prompts between two prompts: sound with text, sound with sound."""

from __future__ import annotations

from collections.abc import Callable
from math import lcm

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_choice, check_setting
from .modes import BLEND_MODES
from .prompt import Conditioning, check_widths

_MAX_REPEATS = 8  # of a prompt, to bring two lengths together


def blend(
    a: Conditioning, b: Conditioning, weight: float, *, mode: str = "linear", null: Conditioning | None = None
) -> Conditioning:
    """Blend two prompts.

    Args:
        a: Prompt at weight 0.
        b: Prompt at weight 1, of the same width; batches are equal, or one of them has a single row. Where the lengths
            differ, "linear" and "spherical" repeat both to a common length, which changes nothing for cross-attention.
        weight: Share of `b`, 0 to 1.
        mode: "linear"; "spherical" (directions along the great circle, norms linear; Shoemake 1985); or "join" (the
            tokens of both in one prompt: 0.5 keeps both whole, towards an end the other one fades to the unconditional
            prompt, and at the end it is left out).
        null: Unconditional prompt [1, T, D] that a fading side of "join" goes to; None = zeros.

    Raises:
        ValueError: Unknown mode, weight outside 0..1, or widths or batches that do not fit.
    """
    check_choice("mode", mode, BLEND_MODES)
    check_setting("weight", weight, least=0, most=1)
    check_widths(a.tokens, b.tokens)
    if (a.pooled is None) != (b.pooled is None):
        raise ValueError("one of the two conditionings has a pooled embedding and the other has none")
    rows = max(len(a.tokens), len(b.tokens))
    if {len(a.tokens), len(b.tokens)} - {1, rows}:
        raise ValueError(f"cannot blend batches of {len(a.tokens)} and {len(b.tokens)}: equal, or one of them 1")
    b = b.to(a.tokens.device, a.tokens.dtype)
    interpolate: Callable[[Tensor, Tensor, float], Tensor] = _slerp if mode == "spherical" else torch.lerp
    pooled = None
    if a.pooled is not None and b.pooled is not None:
        pooled = interpolate(a.pooled.expand(rows, -1), b.pooled.expand(rows, -1), weight)
    if mode == "join":
        shares = min(1.0, 2 * (1 - weight)), min(1.0, 2 * weight)
        sides = [_faded(c.tokens, share, null) for c, share in zip((a, b), shares, strict=True) if share > 0]
        return Conditioning(torch.cat([side.expand(rows, -1, -1) for side in sides], 1), pooled)
    length = lcm(a.tokens.shape[1], b.tokens.shape[1])
    if length > _MAX_REPEATS * max(a.tokens.shape[1], b.tokens.shape[1]):
        raise ValueError(f"cannot blend prompts of {a.tokens.shape[1]} and {b.tokens.shape[1]} tokens: fill both to 77")
    left, right = (c.tokens.repeat(1, length // c.tokens.shape[1], 1).expand(rows, -1, -1) for c in (a, b))
    return Conditioning(interpolate(left, right, weight), pooled)


def _faded(tokens: Tensor, share: float, null: Conditioning | None) -> Tensor:
    if null is None or share == 1:
        return tokens * share
    check_widths(tokens, null.tokens)
    empty = null.tokens.to(tokens.device, tokens.dtype)
    positions = torch.arange(tokens.shape[1], device=tokens.device) % empty.shape[1]
    return torch.lerp(empty[:, positions].expand_as(tokens), tokens, share)


def _slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    ends = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    angle = (u * v).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    # Between (anti)parallel vectors, or from nothing, there is no great circle: a straight line then.
    near = (sine < 1e-4) | (ends[0] * ends[1] == 0)
    sine = torch.where(near, 1.0, sine)
    arc = (torch.sin((1 - weight) * angle) * u + torch.sin(weight * angle) * v) / sine
    return torch.where(near, torch.lerp(a, b, weight), arc * torch.lerp(*ends, weight))
