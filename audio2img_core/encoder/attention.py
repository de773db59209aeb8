"""Wav2Vec2-BERT's self-attention with the same numbers as transformers', sooner.

Its relative-key term adds q_i . e(j - i) to the score of query i and key j, where the distance j - i is clipped to
[-left, right] (64 and 8 in the published model). transformers looks the embeddings of all L x L distances up and
multiplies each by its query. There are only left + right + 1 of them: here each query is multiplied by those once. The
row of scores by distance is then laid out over the keys, on a CPU by a view that is moved on by one for each query, on
a GPU by a look-up. What is left is an additive mask, which `scaled_dot_product_attention` takes. Long sequences go
through it some heads and queries at a time, so that scores and mask stay small: memory that the system has to hand out
anew costs more than the arithmetic.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertModel, Wav2Vec2BertSelfAttention

# Scores computed at once: on a CPU, what its caches and its allocator keep; elsewhere, what memory allows.
_SCORES, _SCORES_CPU = 2**28, 2**21
_ALIGNMENT = 16  # entries of a row: 32 bytes in 16 bits


class RelativeKeyAttention(Wav2Vec2BertSelfAttention):
    """Drop-in for transformers' module with "relative_key" positions: the same weights, names and output."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """Attend; the weights of the attention are not returned.

        Args:
            hidden_states: [B, L, W].
            attention_mask: bool (True = look) or float (added to the scores), broadcast to [B, heads, L, L].
            args, kwargs: what other kinds of position embedding need.
        """
        batch, length, width = hidden_states.shape
        query, key, value = (
            linear(hidden_states).view(batch, length, self.num_heads, self.head_size).transpose(1, 2)
            for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        distances = self.distance_embedding.weight.to(query.dtype) * self.head_size**-0.5
        dropout = self.dropout.p if self.training else 0.0
        most = _SCORES_CPU if query.device.type == "cpu" else _SCORES
        heads = min(max(most // (batch * length * length), 1), self.num_heads)
        queries = min(max(most // (batch * heads * length), 32), length)
        mixed = query.new_empty(batch, length, self.num_heads, self.head_size)
        for h, i in product(range(0, self.num_heads, heads), range(0, length, queries)):
            of, at = slice(h, h + heads), slice(i, i + queries)
            some = query[:, of, at]
            bias = relative_key_bias(some, distances, self.left_max_position_embeddings, i, length)
            if attention_mask is not None:
                mask = attention_mask.expand(batch, self.num_heads, length, length)[:, of, at]
                bias = bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask.to(bias.dtype)
            part = F.scaled_dot_product_attention(some, key[:, of], value[:, of], attn_mask=bias, dropout_p=dropout)
            mixed[:, at, of] = part.transpose(1, 2)
        return self.linear_out(mixed.reshape(batch, length, width)), None


def relative_key_bias(query: Tensor, distances: Tensor, left: int, first: int = 0, length: int | None = None) -> Tensor:
    """What the clipped relative-key term adds to the scores.

    Args:
        query: [B, H, N, D]. distances: [left + right + 1, D] embeddings of the distances -left..right.
        left: distances below -left count as -left.
        first: position of the first query. length: keys (None = as many as queries).

    Returns:
        [B, H, N, L], a view: entry i, j is query i times the embedding of j - i - first.
    """
    number, right = query.shape[2], len(distances) - 1 - left
    length = number if length is None else length
    by_distance = query @ distances.T
    if query.device.type != "cpu":
        return _gathered(by_distance, left, right, first, length)
    # Scores of all distances between these queries and the keys: beyond the ends, the outermost embeddings' again.
    lowest, highest = 1 - number - first, length - 1 - first
    parts = [
        by_distance[..., :1].expand(-1, -1, -1, max(-left - lowest, 0)),
        by_distance[..., max(lowest, -left) + left : min(highest, right) + left + 1],
        by_distance[..., -1:].expand(-1, -1, -1, max(highest - right, 0)),
    ]
    rows = torch.cat(parts, -1)
    if number == 1:
        return rows
    # Row i is to begin at distance -i - first: one step further to the left in each row, that is, rows shorter by one.
    flat = rows.flatten(2)[..., number - 1 :]
    size = length + number - 2
    return flat[..., : number * size].unflatten(-1, (number, size))[..., :length]


def _gathered(by_distance: Tensor, left: int, right: int, first: int, length: int) -> Tensor:
    """The bias looked up entry by entry: where memory is fast, and rows must begin aligned (torch's fused attention
    ends in "misaligned address" on a CUDA GPU where those of its mask do not)."""
    width = -(-length // _ALIGNMENT) * _ALIGNMENT
    queries = torch.arange(first, first + by_distance.shape[2], device=by_distance.device)
    steps = torch.arange(width, device=by_distance.device) - queries[:, None]
    index = (steps.clamp(-left, right) + left).expand(*by_distance.shape[:2], -1, -1)
    return by_distance.gather(-1, index)[..., :length]


def use_fast_attention(backbone: Wav2Vec2BertModel) -> Wav2Vec2BertModel:
    """Have every layer of the encoder attend by `RelativeKeyAttention`; the model itself, changed.

    Backbones with another kind of position embedding stay as they are.
    """
    for module in backbone.encoder.layers.modules():
        if type(module) is Wav2Vec2BertSelfAttention and module.position_embeddings_type == "relative_key":
            module.__class__ = RelativeKeyAttention
    return backbone
