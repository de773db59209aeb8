"""Losses that draw an audio encoder's tokens to a text encoder's.

audio and text are [B, T, D] (tokens) or [B, P] (pooled); row i of one belongs to row i of the other, and position t of
one is compared with position t of the other. The functions compute in float32 (float64 stays), whatever the inputs and
autocast are, and return a scalar.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TEMPERATURES = (0.01, 1.0)
"""Range of a learned temperature: CLIP clips the logit scale at 100 (arXiv:2103.00020, 2.5); above 1 nothing is told
apart."""
INITIAL_LOGIT_BIAS = -10.0
"""SigLIP's: nearly all pairs are negative, so training starts near that prior (arXiv:2303.15343, 3.2)."""
_EPS = 1e-8  # least norm divided by, as in torch.cosine_similarity
_CHUNK_ELEMENTS = 2**24  # of the largest tensor that one chunk of the bank makes: 64 MB in float32


def _in_float32(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
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


@_in_float32
def sequence_contrastive(
    audio: Tensor,
    text: Tensor,
    *,
    temperature: float | Tensor = 0.15,
    symmetric: bool = False,
    bank: Tensor | None = None,
    caption_ids: Tensor | None = None,
    bank_ids: Tensor | None = None,
    bank_join: Callable[[Tensor], Tensor] | None = None,
    position_weights: Tensor | None = None,
) -> Tensor:
    """Contrastive loss at every position: which of the captions does token t of clip i belong to?

    With s[t, i, j] = cos(audio[i, t], text[j, t]) / temperature, the mean over clips i and positions t of

        -log(exp(s[t, i, i]) / sum_j exp(s[t, i, j]))

    which is the seed project's loss, `cross_entropy(cosine_similarity(audio[:, None], text[None], dim=-1) /
    temperature, labels)`. There the cosines make a tensor [B, B, T, D]; here they are one batched product [T, B, B].

    Args:
        audio: [B, T, D].
        text: [B, T, D].
        temperature: of the softmax, above 0; a 0-d tensor may be learned (InfoNCE: arXiv:1807.03748).
        symmetric: the mean with the other direction, a softmax over the clips i for each caption j (arXiv:2103.00020).
        bank: [M, T, D] further captions, as more negatives of every clip; no gradient. It may be of any float type and
            on another device: it is read in chunks, whose scores are computed again in the backward pass.
        caption_ids: [B] integers that are equal where the captions are: a repeated caption is then no negative. Or
            [B, K]: of a clip's own caption, and behind it of further ones that are right for its sound, which are no
            negatives either; a number that no caption has fills up.
        bank_ids: [M] the same for the bank, which may so hold the batch's own captions too.
        bank_join: the bank is split, and each process has its own part of it and the same batch: what joins [1, ...] of
            them to [processes, ...], with gradients, as `gather.gather_rows`. None = this is all of it.
        position_weights: [B, T] or [T], at least 0, of position t of pair i in the mean; None = all equal.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not above 0, or ids of one side only.
    """
    _check_tokens(audio)
    _check_temperature(temperature)
    _check_bank(audio, bank, caption_ids, bank_ids)
    scores = _scores(audio, text, temperature)
    if caption_ids is not None:
        _check_ids("caption_ids", caption_ids, len(audio))
        scores = _without(scores, _right_pairs(caption_ids).fill_diagonal_(False))
    own = scores.diagonal(dim1=1, dim2=2)
    partition = scores.logsumexp(2)
    if bank is not None and len(bank):
        parts = torch.stack(list(_bank_partitions(audio, bank, temperature, caption_ids, bank_ids)))
        if bank_join is not None:
            parts = bank_join(parts.logsumexp(0, keepdim=True))
        partition = torch.cat([partition[None], parts]).logsumexp(0)
    if symmetric:
        partition = (partition + scores.logsumexp(1)) / 2
    return _weighted_mean((partition - own).T, position_weights)


def pooled_contrastive(
    audio: Tensor,
    text: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = True,
    bank: Tensor | None = None,
    caption_ids: Tensor | None = None,
    bank_ids: Tensor | None = None,
    bank_join: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """CLIP's loss over pooled embeddings [B, P] (arXiv:2103.00020, figure 3; the temperature is its initial one).

    With s[i, j] = cos(audio[i], text[j]) / temperature, half the sum of the cross entropies over captions and clips:

        mean_i (-log(exp(s[i, i]) / sum_j exp(s[i, j])) - log(exp(s[i, i]) / sum_j exp(s[j, i]))) / 2

    The options are those of `sequence_contrastive`; bank is [M, P].

    Raises:
        ValueError: as `sequence_contrastive`.
    """
    _check_pooled(audio)
    if bank is not None and bank.ndim != 2:
        raise ValueError(f"bank must be [M, P], not {list(bank.shape)}")
    return sequence_contrastive(
        audio[:, None],
        text[:, None],
        temperature=temperature,
        symmetric=symmetric,
        bank=None if bank is None else bank[:, None],
        caption_ids=caption_ids,
        bank_ids=bank_ids,
        bank_join=bank_join,
    )


@_in_float32
def siglip(
    audio: Tensor,
    text: Tensor,
    *,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    caption_ids: Tensor | None = None,
) -> Tensor:
    """Sigmoid loss over pooled embeddings [B, P]: each pair is judged alone (SigLIP, arXiv:2303.15343, algorithm 1).

        mean_i sum_j -log sigmoid(z[i, j] * (logit_scale * cos(audio[i], text[j]) + logit_bias))

    with z = 1 for a pair, and -1 for others.

    Args:
        audio: [B, P].
        text: [B, P].
        logit_scale: factor of the cosines, above 0; not its logarithm.
        logit_bias: added to them.
        caption_ids: [B] or [B, K] as in `sequence_contrastive`; z is 1 where a caption is right for the sound.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_pooled(audio)
    cosines = _scores(audio[:, None], text[:, None], 1.0)[0]
    positive = torch.eye(len(audio), dtype=torch.bool, device=audio.device)
    if caption_ids is not None:
        _check_ids("caption_ids", caption_ids, len(audio))
        positive = _right_pairs(caption_ids)
    logits = logit_scale * cosines + logit_bias
    return F.softplus(torch.where(positive, -logits, logits)).sum(1).mean()


@_in_float32
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
    _check_tokens(audio)
    text_norms = text.norm(dim=-1)
    if token_norms is None:
        norms = text_norms.clamp_min(_EPS)
    else:
        norms = token_norms.to(audio.device, audio.dtype)
        if norms.shape != audio.shape[1:2]:
            raise ValueError(f"token_norms must have shape [{audio.shape[1]}], not {list(norms.shape)}")
        if not bool((norms > 0).all()):
            raise ValueError(f"token_norms must be above 0: the least is {norms.min().item()}")
    error = (audio - text).square().sum(-1) / norms.square()
    if norm_weight:
        ratio = audio.norm(dim=-1).clamp_min(_EPS).log() - text_norms.clamp_min(_EPS).log()
        error = error + norm_weight * ratio.square()
    return _weighted_mean(error, position_weights)


@_in_float32
def token_cosine(audio: Tensor, text: Tensor, *, position_weights: Tensor | None = None) -> Tensor:
    """Mean over clips i and positions t of 1 - cos(audio[i, t], text[i, t]); audio and text [B, T, D].

    `position_weights` [B, T] or [T] as in `sequence_contrastive`.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_tokens(audio)
    return _weighted_mean(1 - F.cosine_similarity(audio, text, dim=-1, eps=_EPS), position_weights)


def pool_tokens(tokens: Tensor, position_weights: Tensor | None = None) -> Tensor:
    """Mean over positions, for targets without a pooled embedding: [B, T, D] -> [B, D], in float32 at least.

    `position_weights` [B, T] or [T] as in `sequence_contrastive`; a row whose weights are all 0 gives 0.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_tokens(tokens)
    tokens = full_precision(tokens)
    if position_weights is None:
        return tokens.mean(1)
    weights = _expand_weights(position_weights, tokens[..., 0])
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    with torch.autocast(tokens.device.type, enabled=False):
        return (weights[:, None] @ tokens)[:, 0]


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
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high) = ctx.saved_tensors, ctx.bounds
        outward = ((x > high) & (grad < 0)) | ((x < low) & (grad > 0))
        return grad.masked_fill(outward, 0), None, None


def _scores(audio: Tensor, text: Tensor, temperature: float | Tensor) -> Tensor:
    """Cosines over the temperature, [T, B, M], of audio [B, T, D] and text [M, T, D].

    The products are divided by the norms, not the tokens: that needs no normalised copies of them.
    """
    products = audio.transpose(0, 1) @ text.permute(1, 2, 0)
    audio_norms = audio.norm(dim=-1).clamp_min(_EPS).T[:, :, None]
    text_norms = text.norm(dim=-1).clamp_min(_EPS).T[:, None, :]
    return products / (audio_norms * (text_norms * temperature))


def _bank_partitions(
    audio: Tensor,
    bank: Tensor,
    temperature: float | Tensor,
    caption_ids: Tensor | None,
    bank_ids: Tensor | None,
) -> Iterator[Tensor]:
    """log sum_j exp(scores) over each chunk of the bank, [T, B] each; only these are kept for the backward pass."""

    def partition(chunk: Tensor, chunk_ids: Tensor | None, audio: Tensor, temperature: float | Tensor) -> Tensor:
        scores = _scores(audio, chunk.to(audio.device).to(audio.dtype), temperature)
        if chunk_ids is not None:
            scores = _without(scores, _right_pairs(caption_ids, chunk_ids.to(caption_ids.device)))
        return scores.logsumexp(2)

    batch, positions, width = audio.shape
    size = max(1, _CHUNK_ELEMENTS // (positions * max(batch, width)))
    for start in range(0, len(bank), size):
        ids = None if bank_ids is None else bank_ids[start : start + size]
        chunk = bank[start : start + size].detach()
        yield checkpoint(partition, chunk, ids, audio, temperature, use_reentrant=False, preserve_rng_state=False)


def _right_pairs(ids: Tensor, others: Tensor | None = None) -> Tensor:
    """[B, M] whether caption j of `others` [M] is right for clip i of ids [B] or [B, K]; None = the clips' own."""
    ids = ids if ids.ndim == 2 else ids[:, None]
    return (ids[:, :, None] == (ids[:, 0] if others is None else others)).any(1)


def _without(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores that leave the softmax where the mask is set.

    Not -inf: a chunk of the bank can be masked wholly, and the backward pass of logsumexp then makes NaN, which
    masked_fill drops again but anomaly detection stops at.
    """
    return scores.masked_fill(mask.to(scores.device), torch.finfo(scores.dtype).min)


def _weighted_mean(values: Tensor, position_weights: Tensor | None) -> Tensor:
    """Mean of values [B, T]; 0 where all the weights are 0."""
    if position_weights is None:
        return values.mean()
    weights = _expand_weights(position_weights, values)
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)


def _expand_weights(weights: Tensor, values: Tensor) -> Tensor:
    """Position weights [T] or [B, T] as [B, T], like values [B, T]."""
    if weights.shape not in (values.shape, values.shape[1:]):
        raise ValueError(
            f"position_weights must have shape {list(values.shape[1:])} or {list(values.shape)}, "
            f"not {list(weights.shape)}"
        )
    return weights.to(values).expand_as(values)


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32, or float64 where it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check_tokens(tokens: Tensor) -> None:
    if tokens.ndim != 3:
        raise ValueError(f"tokens must have shape [B, T, D], not {list(tokens.shape)}")


def _check_pooled(pooled: Tensor) -> None:
    if pooled.ndim != 2:
        raise ValueError(f"pooled embeddings must have shape [B, P], not {list(pooled.shape)}")


def _check_temperature(temperature: float | Tensor) -> None:
    """A tensor's value is not looked at, for that would wait for the GPU at each step."""
    if isinstance(temperature, Tensor):
        if temperature.ndim:
            raise ValueError(f"temperature must be a number or a 0-d tensor, not of shape {list(temperature.shape)}")
    elif not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0 and finite, not {temperature!r}")


def _check_bank(audio: Tensor, bank: Tensor | None, caption_ids: Tensor | None, bank_ids: Tensor | None) -> None:
    if bank is None:
        if bank_ids is not None:
            raise ValueError("bank_ids without a bank")
        return
    if bank.shape[1:] != audio.shape[1:]:
        raise ValueError(f"bank must have shape {['M', *audio.shape[1:]]}, not {list(bank.shape)}")
    if (caption_ids is None) != (bank_ids is None):
        raise ValueError("with a bank, caption_ids and bank_ids go together: give both or neither")
    if bank_ids is not None:
        _check_ids("bank_ids", bank_ids, len(bank))


def _check_ids(name: str, ids: Tensor, size: int) -> None:
    fits = ids.shape == (size,) or (name == "caption_ids" and ids.ndim == 2 and len(ids) == size and ids.shape[1] > 0)
    if not fits or ids.is_floating_point():
        raise ValueError(f"{name} must be integers of shape [{size}], not {ids.dtype} {list(ids.shape)}")
