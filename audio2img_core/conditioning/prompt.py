"""From what the encoder heard to what a diffusion model is conditioned on."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoder.embeddings import AudioEmbeddings, TokenSpace
from ..targets import get_target, target_of_width

WINDOW_MODES = ("average", "join", "keep")
BLEND_MODES = ("linear", "spherical", "join")
_MAX_REPEATS = 8  # of a prompt, to bring two lengths together


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

    def repeat(self, count: int) -> Conditioning:
        """Each row `count` times in a row: [B, ...] -> [B * count, ...]."""
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(count, 0)
        return Conditioning(self.tokens.repeat_interleave(count, 0), pooled)


def condition(
    embeddings: AudioEmbeddings,
    *,
    strength: float = 1.0,
    windows: str = "average",
    null: Conditioning | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Positive and negative conditioning of what was heard.

    A prompt is the teacher's BOS token (where the checkpoint puts it in front), the encoder's tokens, and the
    tokens of the teacher's empty prompt up to 77 (or the next multiple of it, for longer ones). The negative is
    the empty prompt, as the diffusion models were trained with it.

    Args:
        embeddings: of one or more clips.
        strength: 0 is the empty prompt, 1 the sound; between them a straight line, above 1 beyond the sound.
        windows: what becomes of a clip's windows: "average" them (weighted by their sound), "join" them to one
            long prompt, or "keep" each as a row of its own.
        null: the empty prompt [1, 77, D]; None = the checkpoint's own.

    Returns:
        (positive, negative) of equal shapes; one row a clip, or a window where they are kept.

    Raises:
        ValueError: unknown mode, strength not finite or negative, no empty prompt anywhere, or one of other width.
    """
    if windows not in WINDOW_MODES:
        raise ValueError(f"windows must be one of {', '.join(WINDOW_MODES)}, not {windows!r}")
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength must be a finite number of at least 0, not {strength!r}")
    null = null_conditioning(embeddings.space) if null is None else null
    if get_target(embeddings.space.target).pooled_width is None:
        null = Conditioning(null.tokens)  # ComfyUI's CLIP gives a pooled embedding for every family
    null = null.to(embeddings.tokens.device, embeddings.tokens.dtype)
    _check_widths(embeddings.tokens, null.tokens)
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
    tokens = torch.lerp(empty, tokens, strength)
    if pooled is None:
        return Conditioning(tokens), Conditioning(empty)
    if null.pooled is None:
        raise ValueError(f"the empty prompt of target {embeddings.space.target!r} needs a pooled embedding too")
    empty_pooled = null.pooled.expand_as(pooled)
    return Conditioning(tokens, torch.lerp(empty_pooled, pooled, strength)), Conditioning(empty, empty_pooled)


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


def blend(
    a: Conditioning, b: Conditioning, weight: float, *, mode: str = "linear", null: Conditioning | None = None
) -> Conditioning:
    """A conditioning between two.

    Args:
        a, b: of one width; equal batch, or one of them has a single row. Where their lengths differ, "linear" and
            "spherical" repeat both to a common length, which changes nothing for cross-attention.
        weight: 0 gives `a`, 1 gives `b`.
        mode: "linear"; "spherical" (directions along the great circle, norms linear; Shoemake 1985); or "join"
            (the tokens of both in one prompt: 0.5 leaves both whole, towards an end the other one fades to the empty
            prompt, and at the end it is left out).
        null: the empty prompt [1, T, D] that a fading side of "join" goes to; None = zeros.

    Raises:
        ValueError: unknown mode, weight outside 0..1, widths or batches that do not fit.
    """
    if mode not in BLEND_MODES:
        raise ValueError(f"blend mode must be one of {', '.join(BLEND_MODES)}, not {mode!r}")
    if not 0 <= weight <= 1:
        raise ValueError(f"blend weight must be between 0 and 1, not {weight!r}")
    _check_widths(a.tokens, b.tokens)
    if (a.pooled is None) != (b.pooled is None):
        raise ValueError("one of the two conditionings has a pooled embedding and the other has none")
    rows = max(len(a.tokens), len(b.tokens))
    if {len(a.tokens), len(b.tokens)} - {1, rows}:
        raise ValueError(f"cannot blend batches of {len(a.tokens)} and {len(b.tokens)}: equal, or one of them 1")
    b = b.to(a.tokens.device, a.tokens.dtype)
    interpolate = _slerp if mode == "spherical" else torch.lerp
    pooled = None
    if a.pooled is not None and b.pooled is not None:
        pooled = interpolate(*(p.expand(rows, -1) for p in (a.pooled, b.pooled)), weight)
    if mode == "join":
        shares = min(1.0, 2 * (1 - weight)), min(1.0, 2 * weight)
        sides = [_faded(c.tokens, share, null) for c, share in zip((a, b), shares, strict=True) if share > 0]
        return Conditioning(torch.cat([side.expand(rows, -1, -1) for side in sides], 1), pooled)
    length = lcm(a.tokens.shape[1], b.tokens.shape[1])
    if length > _MAX_REPEATS * max(a.tokens.shape[1], b.tokens.shape[1]):
        raise ValueError(f"cannot blend prompts of {a.tokens.shape[1]} and {b.tokens.shape[1]} tokens: fill both to 77")
    tokens = [c.tokens.repeat(1, length // c.tokens.shape[1], 1).expand(rows, -1, -1) for c in (a, b)]
    return Conditioning(interpolate(*tokens, weight), pooled)


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


def to_comfy(conditioning: Conditioning) -> list[list[Any]]:
    """ComfyUI's CONDITIONING: [[tokens [B, T, D], {"pooled_output": [B, P]}]]."""
    extra = {} if conditioning.pooled is None else {"pooled_output": conditioning.pooled}
    return [[conditioning.tokens, extra]]


def from_comfy(conditioning: list[list[Any]]) -> Conditioning:
    """The first entry of ComfyUI's CONDITIONING; nothing of it is changed.

    Raises:
        ValueError: it holds no entry.
    """
    if not conditioning:
        raise ValueError("the CONDITIONING holds no entry")
    tokens, extra = conditioning[0]
    return Conditioning(tokens, extra.get("pooled_output"))


def blend_comfy(a: list[list[Any]], b: list[list[Any]], weight: float, *, mode: str = "linear") -> list[list[Any]]:
    """`blend` of ComfyUI's CONDITIONING: each entry of `a` with the first of `b`, as core's own nodes do it.

    What else an entry of `a` says (areas, masks, ControlNets) stays; nothing of either is changed. A pooled embedding
    that only one of them has is left out where the family has no use for one: ComfyUI's CLIP gives it for every family.

    Raises:
        ValueError: as `blend` and `from_comfy`.
    """
    other = from_comfy(b)
    from_comfy(a)  # an empty one is refused
    blended = []
    for tokens, extra in a:
        sides = Conditioning(tokens, extra.get("pooled_output")), other
        if any(side.pooled is None for side in sides) and target_of_width(tokens.shape[-1], pooled=True) is None:
            sides = tuple(Conditioning(side.tokens) for side in sides)
        mixed = blend(*sides, weight, mode=mode)
        blended.append([mixed.tokens, extra if mixed.pooled is None else {**extra, "pooled_output": mixed.pooled}])
    return blended


def _fill(tokens: Tensor, null: Tensor, prepend_bos: bool) -> Tensor:
    """[B, N, D] -> [B, k * 77, D]: BOS in front, the empty prompt's tokens behind."""
    if prepend_bos:
        tokens = torch.cat([null[:1].expand(len(tokens), -1, -1), tokens], 1)
    length = -(-tokens.shape[1] // len(null)) * len(null)
    positions = torch.arange(tokens.shape[1], length, device=null.device) % len(null)
    return torch.cat([tokens, null[positions].expand(len(tokens), -1, -1)], 1)


def _join_windows(tokens: Tensor, clips: tuple[int, ...], null: Tensor) -> Tensor:
    """[B, T, D] by window -> [clips, W * T, D]; clips with fewer windows are filled with empty prompts."""
    parts = [[row for row, of in zip(tokens, clips, strict=True) if of == clip] for clip in range(max(clips) + 1)]
    longest = max(len(rows) for rows in parts)
    empty = null.repeat(tokens.shape[1] // len(null), 1)
    return torch.stack([torch.cat(rows + [empty] * (longest - len(rows))) for rows in parts])


def _faded(tokens: Tensor, share: float, null: Conditioning | None) -> Tensor:
    if null is None or share == 1:
        return tokens * share
    _check_widths(tokens, null.tokens)
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


def _check_widths(a: Tensor, b: Tensor) -> None:
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"tokens of width {a.shape[-1]} and of width {b.shape[-1]} belong to different text encoders: "
            "use an encoder and a diffusion model of the same target"
        )
