"""Heads: from the backbone's frames to tokens of a text encoder's width."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bounds import check_head, shortened

HEADS = ("conv", "query")
_START = 0.1  # of the random weights of the last layer, where a head begins at the mean prompt
INITIAL_LOGIT_SCALE = math.log(1 / 0.15)  # of cosines, as a logarithm; the seed project's temperature was fixed at 0.15


@dataclass(frozen=True)
class HeadConfig:
    """Kind and size of the head.

    The conv head's kernel, stride and layers are the backbone config's adapter fields.

    Attributes:
        kind: Kind of head: "conv" = the Wav2Vec2-BERT adapter, as many tokens as the window gives; "query" =
            num_tokens.
        num_tokens: Number of tokens of the query head (76 and the BOS token make a prompt of 77).
        width: Number of channels inside the query head.
        num_layers: Number of layers of the query head.
        num_heads: Number of attention heads of the query head.
    """

    kind: str = "query"
    num_tokens: int = 76
    width: int = 512
    num_layers: int = 2
    num_heads: int = 8

    def __post_init__(self) -> None:
        if self.kind not in HEADS:
            raise ValueError(f"head kind must be one of {', '.join(HEADS)}, not {shortened(self.kind)}")
        check_head(self)
        if self.width % self.num_heads:
            raise ValueError(f"head width {self.width} must be a multiple of num_heads {self.num_heads}")


def make_head(config: HeadConfig, backbone, token_dim: int, pooled_dim: int | None) -> nn.Module:
    """The head that `config` names, for a backbone with the `Wav2Vec2BertConfig` `backbone`.

    Its forward takes (frames [B, F, H], mask [B, F] | None) and returns (tokens [B, N, token_dim],
    pooled [B, pooled_dim] | None).
    """
    if config.kind == "conv":
        return ConvHead(backbone, token_dim, pooled_dim)
    return QueryHead(config, backbone.hidden_size, token_dim, pooled_dim)


class ConvHead(nn.Module):
    """The adapter of Wav2Vec2-BERT: strided convolutions and attention; the tokens keep the order of time."""

    def __init__(self, backbone, token_dim: int, pooled_dim: int | None):
        super().__init__()
        from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertAdapter

        if backbone.output_hidden_size != token_dim:
            raise ValueError(f"the backbone's output_hidden_size is {backbone.output_hidden_size}, not {token_dim}")
        self.adapter = Wav2Vec2BertAdapter(backbone)
        self.pooler = None if pooled_dim is None else nn.Linear(token_dim, pooled_dim)

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        tokens = self.adapter(frames, attention_mask=mask)
        return tokens, None if self.pooler is None else self.pooler(tokens.mean(1))


class QueryHead(nn.Module):
    """Learned queries that attend over all frames: exactly num_tokens tokens from any length.

    Pre-norm Transformer decoder layers, in the manner of the resampler of Flamingo (arXiv:2204.14198) and the
    Q-Former (arXiv:2301.12597). One more query gives the pooled embedding where the target has one.
    """

    def __init__(self, config: HeadConfig, frame_dim: int, token_dim: int, pooled_dim: int | None):
        super().__init__()
        self.num_tokens = config.num_tokens
        queries = config.num_tokens + (pooled_dim is not None)
        self.queries = nn.Parameter(torch.randn(queries, config.width) * config.width**-0.5)
        self.frame_proj = nn.Linear(frame_dim, config.width)
        self.frame_norm = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(QueryLayer(config.width, config.num_heads) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, token_dim)
        self.token_bias = nn.Parameter(torch.zeros(config.num_tokens, token_dim))  # on top of out's, by position
        self.pooler = None if pooled_dim is None else nn.Linear(config.width, pooled_dim)

    @torch.no_grad()
    def start_from(self, mean_tokens: Tensor, mean_pooled: Tensor | None) -> None:
        """Begin with what is the same in all prompts, so that training only has to learn how they differ.

        Args:
            mean_tokens: [num_tokens, D] the teacher's mean token of each position; mean_pooled: [P] likewise.
        """
        self.token_bias.copy_(mean_tokens)
        self.out.weight.mul_(_START)
        if mean_pooled is not None and self.pooler is not None:
            self.pooler.bias.copy_(mean_pooled)

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        frames = self.frame_norm(self.frame_proj(frames))
        attend = None if mask is None else mask.bool()[:, None, None, :]
        x = self.queries.to(frames.dtype).expand(len(frames), -1, -1)
        for layer in self.layers:
            x = layer(x, frames, attend)
        x = self.norm(x)
        tokens = self.out(x[:, : self.num_tokens]) + self.token_bias
        return tokens, None if self.pooler is None else self.pooler(x[:, -1])


class QueryLayer(nn.Module):
    """Attention among the queries, attention over the frames, feed-forward."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.self_norm, self.self_attn = nn.LayerNorm(width), Attention(width, num_heads)
        self.cross_norm, self.cross_attn = nn.LayerNorm(width), Attention(width, num_heads)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, frames: Tensor, attend: Tensor | None) -> Tensor:
        normed = self.self_norm(x)
        x = x + self.self_attn(normed, normed)
        x = x + self.cross_attn(self.cross_norm(x), frames, attend)
        return x + self.ffn(self.ffn_norm(x))


class Attention(nn.Module):
    """Multi-head attention of x [B, N, W] over y [B, M, W]; `attend` broadcasts to [B, heads, N, M], True = look."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, y: Tensor, attend: Tensor | None = None) -> Tensor:
        q, k, v = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q(x), self.k(y), self.v(y))
        )
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=attend).transpose(1, 2).flatten(2))
