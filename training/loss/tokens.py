"""Losses between the tokens of a clip and those of its own caption, position by position, and their mean.

As in `contrastive`, the losses compute in float32 (float64 stays) and return a scalar.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import EPS, check_tokens, expand_weights, full_precision, in_float32, weighted_mean


@in_float32
def token_regression(
    audio: Tensor,
    text: Tensor,
    *,
    token_norms: Tensor | None = None,
    position_weights: Tensor | None = None,
    norm_weight: float = 0.0,
) -> Tensor:
    """Distance of tokens in units of the teacher's norm, and how far their norms are apart.

    The mean over clips i and positions t of

        |a - t|^2 / n^2 + norm_weight * (log |a| - log |t|)^2

    with the tokens a and t and the norm n of the position. Regression of prompt tokens on sound is SonicDiffusion's
    (arXiv:2405.00878); that a prompt's norms differ by position, and that they matter, is GlueGen's (arXiv:2303.10056).
    0 = equal tokens, 1 = as far off as silence (a = 0).

    Args:
        audio: [B, T, D].
        text: [B, T, D].
        token_norms: [T] the teacher's mean norm by position; None = the norm of each text token itself.
        position_weights: [B, T] or [T], as in `sequence_contrastive`.
        norm_weight: of the second term, at least 0.

    Raises:
        ValueError: shapes that do not fit, norms that are not above 0.
    """
    check_tokens(audio)
    text_norms = text.norm(dim=-1)
    if token_norms is None:
        norms = text_norms.clamp_min(EPS)
    else:
        norms = token_norms.to(audio.device, audio.dtype)
        if norms.shape != audio.shape[1:2]:
            raise ValueError(f"token_norms must have shape [{audio.shape[1]}], not {list(norms.shape)}")
        if not bool((norms > 0).all()):
            raise ValueError(f"token_norms must be above 0: the least is {norms.min().item()}")
    error = (audio - text).square().sum(-1) / norms.square()
    if norm_weight:
        ratio = audio.norm(dim=-1).clamp_min(EPS).log() - text_norms.clamp_min(EPS).log()
        error = error + norm_weight * ratio.square()
    return weighted_mean(error, position_weights)


@in_float32
def token_cosine(audio: Tensor, text: Tensor, *, position_weights: Tensor | None = None) -> Tensor:
    """Mean over clips i and positions t of 1 - cos(audio[i, t], text[i, t]); audio and text [B, T, D].

    `position_weights` [B, T] or [T] as in `sequence_contrastive`.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_tokens(audio)
    return weighted_mean(1 - F.cosine_similarity(audio, text, dim=-1, eps=EPS), position_weights)


def pool_tokens(tokens: Tensor, position_weights: Tensor | None = None) -> Tensor:
    """Mean over positions, for targets without a pooled embedding: [B, T, D] -> [B, D], in float32 at least.

    `position_weights` [B, T] or [T] as in `sequence_contrastive`; a row whose weights are all 0 gives 0.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_tokens(tokens)
    tokens = full_precision(tokens)
    if position_weights is None:
        return tokens.mean(1)
    weights = expand_weights(position_weights, tokens[..., 0])
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    with torch.autocast(tokens.device.type, enabled=False):
        return (weights[:, None] @ tokens)[:, 0]
