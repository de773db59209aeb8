"""From audio embeddings to the prompt of a diffusion model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_choice, check_setting
from ..encoder.embeddings import AudioEmbeddings, TokenSpace
from ..targets import get_target
from .modes import WINDOW_MODES


@dataclass(frozen=True)
class Conditioning:
    """A prompt as a diffusion model takes it."""

    tokens: Tensor  # [B, T, D] float
    pooled: Tensor | None = None  # [B, P] float, None where the family has none

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3:
            raise ValueError(f"conditioning tokens must be [B, T, D], not {list(self.tokens.shape)}")
        if self.pooled is not None and (self.pooled.ndim != 2 or len(self.pooled) != len(self.tokens)):
            raise ValueError(f"pooled must be [{len(self.tokens)}, P], not {list(self.pooled.shape)}")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """The same on another device or in another dtype."""
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        return Conditioning(self.tokens.to(device=device, dtype=dtype), pooled)

    def expand(self, rows: int) -> Conditioning:
        """A single row as `rows` equal ones: [1, ...] -> [rows, ...]; as many rows as that stay."""
        pooled = None if self.pooled is None else self.pooled.expand(rows, -1)
        return Conditioning(self.tokens.expand(rows, -1, -1), pooled)

    def repeat(self, count: int) -> Conditioning:
        """Each row `count` times in a row: [B, ...] -> [B * count, ...]."""
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(count, 0)
        return Conditioning(self.tokens.repeat_interleave(count, 0), pooled)


def condition(
    embeddings: AudioEmbeddings,
    *,
    sound_strength: float = 1.0,
    windows: str = "average",
    null: Conditioning | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Make positive and negative conditioning from audio embeddings.

    A prompt is the teacher's BOS token (where the checkpoint puts it in front), the encoder's tokens, and the tokens of
    the teacher's unconditional prompt up to 77 (or the next multiple of it, for longer ones). The negative is the
    unconditional prompt, as the diffusion models were trained with it.

    Args:
        embeddings: Embeddings of one or more clips.
        sound_strength: 0 gives the unconditional prompt and 1 the sound, with a straight line between them; above 1
            extrapolates beyond the sound.
        windows: How to treat the windows of a clip: "average" them (weighted by their seconds of sound), "join" them to
            one long prompt, or "keep" each as a row of its own.
        null: Unconditional prompt [1, 77, D]; None = the checkpoint's own.

    Returns:
        (positive, negative) of equal shapes, with one row for each clip, or for each window that is kept.

    Raises:
        ValueError: Unknown mode, `sound_strength` not finite or negative, no unconditional prompt, or one of another
            width.
    """
    check_choice("windows", windows, WINDOW_MODES)
    check_setting("sound_strength", sound_strength, least=0)
    null = null_conditioning(embeddings.space) if null is None else null
    if get_target(embeddings.space.target).pooled_width is None:
        null = Conditioning(null.tokens)  # ComfyUI's CLIP gives a pooled embedding for every family
    null = null.to(embeddings.tokens.device, embeddings.tokens.dtype)
    check_widths(embeddings.tokens, null.tokens)
    if windows == "average":
        embeddings = embeddings.averaged()
    tokens = _fill(embeddings.tokens, null.tokens[0], embeddings.space.prepend_bos)
    pooled = embeddings.pooled
    if pooled is None and null.pooled is not None:
        pooled = null.pooled.expand(len(tokens), -1)
    if windows == "join":
        tokens = _join_windows(tokens, embeddings.clips, null.tokens[0])
        pooled = embeddings.averaged().pooled if embeddings.pooled is not None else pooled
        pooled = None if pooled is None else pooled[: len(tokens)]
    empty = null.tokens.repeat(1, tokens.shape[1] // null.tokens.shape[1], 1).expand(len(tokens), -1, -1)
    tokens = torch.lerp(empty, tokens, sound_strength)
    if pooled is None:
        return Conditioning(tokens), Conditioning(empty)
    if null.pooled is None:
        raise ValueError(f"the empty prompt of target {embeddings.space.target!r} needs a pooled embedding too")
    empty_pooled = null.pooled.expand_as(pooled)
    return Conditioning(tokens, torch.lerp(empty_pooled, pooled, sound_strength)), Conditioning(empty, empty_pooled)


def null_conditioning(space: TokenSpace) -> Conditioning:
    """The teacher's empty prompt [1, 77, D] that a checkpoint carries.

    Raises:
        ValueError: it carries none, as the seed project's; the message says how to add it.
    """
    if space.null_tokens is None:
        raise ValueError(
            "this encoder's checkpoint carries no empty prompt: add it once with "
            "`audio2img convert ENCODER NEW --diffusion MODEL`, or give the diffusion model's text encoder (CLIP)"
        )
    return Conditioning(space.null_tokens[None], None if space.null_pooled is None else space.null_pooled[None])


def to_diffusers(positive: Conditioning, negative: Conditioning) -> dict[str, Tensor]:
    """Keyword arguments of a diffusers pipeline: prompt_embeds [B, T, D], negative_prompt_embeds, pooled ones."""
    positive, negative = match_lengths(positive, negative)
    arguments = {"prompt_embeds": positive.tokens, "negative_prompt_embeds": negative.tokens}
    if positive.pooled is not None and negative.pooled is not None:
        arguments |= {"pooled_prompt_embeds": positive.pooled, "negative_pooled_prompt_embeds": negative.pooled}
    return arguments


def match_lengths(positive: Conditioning, negative: Conditioning) -> tuple[Conditioning, Conditioning]:
    """The shorter of the two filled up with its own tokens again: diffusers needs equal lengths."""
    length = max(positive.tokens.shape[1], negative.tokens.shape[1])

    def stretch(c: Conditioning) -> Conditioning:
        return Conditioning(c.tokens[:, torch.arange(length, device=c.tokens.device) % c.tokens.shape[1]], c.pooled)

    return stretch(positive), stretch(negative)


def _fill(tokens: Tensor, null: Tensor, prepend_bos: bool) -> Tensor:
    """[B, N, D] -> [B, k * 77, D]: BOS in front, the empty prompt's tokens behind."""
    if prepend_bos:
        tokens = torch.cat([null[:1].expand(len(tokens), -1, -1), tokens], 1)
    length = -(-tokens.shape[1] // len(null)) * len(null)
    positions = torch.arange(tokens.shape[1], length, device=null.device) % len(null)
    return torch.cat([tokens, null[positions].expand(len(tokens), -1, -1)], 1)


def _join_windows(tokens: Tensor, clips: tuple[int, ...], null: Tensor) -> Tensor:
    """[B, T, D] by window -> [clips, W * T, D]; clips with fewer windows are filled with empty prompts."""
    parts = [[row for row, of in zip(tokens, clips, strict=True) if of == clip] for clip in dict.fromkeys(clips)]
    longest = max(len(rows) for rows in parts)
    empty = null.repeat(tokens.shape[1] // len(null), 1)
    return torch.stack([torch.cat(rows + [empty] * (longest - len(rows))) for rows in parts])


def check_widths(a: Tensor, b: Tensor) -> None:
    """Refuse prompts of different widths.

    Raises:
        ValueError: the last dimensions of `a` and `b` differ.
    """
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"tokens of width {a.shape[-1]} and of width {b.shape[-1]} belong to different text encoders: "
            "use an encoder and a diffusion model of the same target"
        )
