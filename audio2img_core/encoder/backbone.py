"""Wav2Vec2-BERT as the encoder runs it: transformers' model with some of its modules sooner or more exact.

Attention is that of `attention.py`. Convolutions over one frame are the matrix products that they are.

In bfloat16 a number has 8 bits. What costs exactness is less that the factors of the matrix products are rounded to
them than that the residual stream is, five times in each layer. Here it stays in float32: the input is projected in
float32, each norm takes the sum so far in float32 and rounds only what goes into a matrix product, and the layer's last
norm hands on float32. Sums of 16 and 32 bits are float32 by torch's own rules. In float32 nothing changes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertFeatureProjection, Wav2Vec2BertModel

from .attention import use_fast_attention


class WideLayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` in float32, whatever its weights are; its output too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)


class RoundingLayerNorm(WideLayerNorm):
    """The same, its output in the dtype of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(self.weight.dtype)


class WideFeatureProjection(Wav2Vec2BertFeatureProjection):
    """transformers' module in float32, whatever its weights are."""

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.layer_norm(hidden_states)
        with torch.autocast(normed.device.type, enabled=False):
            hidden = F.linear(normed, self.projection.weight.float(), self.projection.bias.float())
        return self.dropout(hidden), normed


class PointwiseConv(nn.Conv1d):
    """`nn.Conv1d` over one frame and without a bias, as a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.transpose(1, 2), self.weight.squeeze(-1)).transpose(1, 2)


def adapt(backbone: Wav2Vec2BertModel) -> Wav2Vec2BertModel:
    """The model itself, its modules now of these classes. It takes and gives float32; weights keep their names."""
    use_fast_attention(backbone)
    backbone.feature_projection.__class__ = WideFeatureProjection
    backbone.feature_projection.layer_norm.__class__ = WideLayerNorm
    layers: Any = backbone.encoder.layers
    for layer in layers:
        conv = layer.conv_module
        norms = (layer.ffn1_layer_norm, layer.self_attn_layer_norm, layer.ffn2_layer_norm)
        for norm in (*norms, conv.layer_norm, conv.depthwise_layer_norm):
            norm.__class__ = RoundingLayerNorm
        for pointwise in (conv.pointwise_conv1, conv.pointwise_conv2):
            pointwise.__class__ = PointwiseConv
        layer.final_layer_norm.__class__ = WideLayerNorm
    return backbone
