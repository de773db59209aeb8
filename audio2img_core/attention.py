"""Wav2Vec2-BERT's self-attention with the same numbers as transformers', sooner.

Its relative-key term adds q_i . e(j - i) to the score of query i and key j, where the distance j - i is clipped to
[-left, right] (64 and 8 in the published model). transformers looks the embeddings of all L x L distances up and
multiplies each by its query. There are only left + right + 1 of them: here each query is multiplied by those once, and
the row of scores by distance is laid out over the keys by a view that is moved on by one for each query. What is left
is an additive mask, which `scaled_dot_product_attention` takes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertModel, Wav2Vec2BertSelfAttention


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
        bias = relative_key_bias(
            query, self.distance_embedding.weight.to(query.dtype), self.left_max_position_embeddings
        )
        bias = bias * self.head_size**-0.5
        if attention_mask is not None:
            bias = (
                bias.masked_fill(~attention_mask, -torch.inf)
                if attention_mask.dtype == torch.bool
                else bias + attention_mask.to(bias.dtype)
            )
        dropout = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return self.linear_out(mixed.transpose(1, 2).reshape(batch, length, width)), None


def relative_key_bias(query: Tensor, distances: Tensor, left: int) -> Tensor:
    """What the clipped relative-key term adds to the scores.

    Args:
        query: [B, H, L, D]. distances: [left + right + 1, D] embeddings of the distances -left..right.
        left: distances below -left count as -left.

    Returns:
        [B, H, L, L], a view of [B, H, L, 2 L - 1]: entry i, j is query i times the embedding of j - i.
    """
    length, right = query.shape[2], len(distances) - 1 - left
    by_distance = query @ distances.T
    # Scores of the distances 1 - L .. L - 1: the clipped ends are the outermost embeddings' over and over.
    first, last = left - min(left, length - 1), left + min(right, length - 1)
    parts = [
        by_distance[..., :1].expand(-1, -1, -1, max(length - 1 - left, 0)),
        by_distance[..., first : last + 1],
        by_distance[..., -1:].expand(-1, -1, -1, max(length - 1 - right, 0)),
    ]
    rows = torch.cat(parts, -1)
    if length == 1:
        return rows
    # Row i is to begin at distance -i: one step further to the left in each row, that is, rows shorter by one.
    flat = rows.flatten(2)[..., length - 1 :]
    return flat[..., : length * (2 * length - 2)].unflatten(-1, (length, 2 * length - 2))[..., :length]


def use_fast_attention(backbone: Wav2Vec2BertModel) -> Wav2Vec2BertModel:
    """Have every layer of the encoder attend by `RelativeKeyAttention`; the model itself, changed.

    Backbones with another kind of position embedding stay as they are.
    """
    for module in backbone.encoder.layers.modules():
        if type(module) is Wav2Vec2BertSelfAttention and module.position_embeddings_type == "relative_key":
            module.__class__ = RelativeKeyAttention
    return backbone
