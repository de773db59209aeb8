"""Contrastive losses: which of the captions belongs to a clip?

audio and text are [B, T, D] (tokens) or [B, P] (pooled); row i of one belongs to row i of the other, and position t of
one is compared with position t of the other. The functions compute in float32 (float64 stays), whatever the inputs and
autocast are, and return a scalar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .common import EPS, check_pooled, check_tokens, in_float32, weighted_mean

INITIAL_LOGIT_BIAS = -10.0
"""SigLIP's: nearly all pairs are negative, so training starts near that prior (arXiv:2303.15343, 3.2)."""
_CHUNK_ELEMENTS = 2**24  # of the largest tensor that one chunk of the bank makes: 64 MB in float32


@in_float32
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

    which is the original project's loss, `cross_entropy(cosine_similarity(audio[:, None], text[None], dim=-1) /
    temperature, labels)`. There the cosines make a tensor [B, B, T, D]; here they are one batched product [T, B, B].

    Args:
        audio: [B, T, D].
        text: [B, T, D].
        temperature: of the softmax, above 0; a 0-d tensor may be learned (InfoNCE: arXiv:1807.03748).
        symmetric: the mean with the other direction, a softmax over the clips i for each caption j (arXiv:2103.00020).
        bank: [M, T, D] further captions, as more negatives of every clip; no gradient. It may be of any float type and
            on another device: it is read in chunks, whose scores are computed again in the backward pass.
        caption_ids: [B] integers that are equal where the captions are: a repeated caption is then no negative. Or
            [B, K]: of a clip's own caption, and behind it of further ones that are correct for its audio, which are no
            negatives either; a number that no caption has fills up.
        bank_ids: [M] the same for the bank, which may so hold the batch's own captions too.
        bank_join: the bank is split, and each process has its own part of it and the same batch: what joins [1, ...] of
            them to [processes, ...], with gradients, as `gather.gather_rows`. None = this is all of it.
        position_weights: [B, T] or [T], at least 0, of position t of pair i in the mean; None = all equal.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not above 0, or ids of one side only.
    """
    check_tokens(audio)
    _check_temperature(temperature)
    _check_bank(audio, bank, caption_ids, bank_ids)
    scores = _scores(audio, text, temperature)
    if caption_ids is not None:
        _check_ids("caption_ids", caption_ids, len(audio))
        scores = _without(scores, _positive_pairs(caption_ids).fill_diagonal_(False))
    own = scores.diagonal(dim1=1, dim2=2)
    partition = scores.logsumexp(2)
    if bank is not None and len(bank):
        parts = torch.stack(list(_bank_partitions(audio, bank, temperature, caption_ids, bank_ids)))
        if bank_join is not None:
            parts = bank_join(parts.logsumexp(0, keepdim=True))
        partition = torch.cat([partition[None], parts]).logsumexp(0)
    if symmetric:
        partition = (partition + scores.logsumexp(1)) / 2
    return weighted_mean((partition - own).T, position_weights)


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
    check_pooled(audio)
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


@in_float32
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
        caption_ids: [B] or [B, K] as in `sequence_contrastive`; z is 1 where a caption is correct for the audio.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_pooled(audio)
    cosines = _scores(audio[:, None], text[:, None], 1.0)[0]
    positive = torch.eye(len(audio), dtype=torch.bool, device=audio.device)
    if caption_ids is not None:
        _check_ids("caption_ids", caption_ids, len(audio))
        positive = _positive_pairs(caption_ids)
    logits = logit_scale * cosines + logit_bias
    return F.softplus(torch.where(positive, -logits, logits)).sum(1).mean()


def _scores(audio: Tensor, text: Tensor, temperature: float | Tensor) -> Tensor:
    """Cosines over the temperature, [T, B, M], of audio [B, T, D] and text [M, T, D].

    The products are divided by the norms, not the tokens: that needs no normalised copies of them.
    """
    products = audio.transpose(0, 1) @ text.permute(1, 2, 0)
    audio_norms = audio.norm(dim=-1).clamp_min(EPS).T[:, :, None]
    text_norms = text.norm(dim=-1).clamp_min(EPS).T[:, None, :]
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
        if chunk_ids is not None and caption_ids is not None:
            scores = _without(scores, _positive_pairs(caption_ids, chunk_ids.to(caption_ids.device)))
        return scores.logsumexp(2)

    batch, positions, width = audio.shape
    size = max(1, _CHUNK_ELEMENTS // (positions * max(batch, width)))
    for start in range(0, len(bank), size):
        ids = None if bank_ids is None else bank_ids[start : start + size]
        chunk = bank[start : start + size].detach()
        yield checkpoint(partition, chunk, ids, audio, temperature, use_reentrant=False, preserve_rng_state=False)


def _positive_pairs(ids: Tensor, others: Tensor | None = None) -> Tensor:
    """[B, M] Whether caption j of `others` [M] is correct for clip i of ids [B] or [B, K]; None = the clips' own."""
    ids = ids if ids.ndim == 2 else ids[:, None]
    return (ids[:, :, None] == (ids[:, 0] if others is None else others)).any(1)


def _without(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores that leave the softmax where the mask is set.

    Not -inf: a chunk of the bank can be masked wholly, and the backward pass of logsumexp then makes NaN, which
    masked_fill drops again but anomaly detection stops at.
    """
    return scores.masked_fill(mask.to(scores.device), torch.finfo(scores.dtype).min)


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
