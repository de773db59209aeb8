"""The one table of targets: the text-encoder spaces a checkpoint can be trained for."""

from __future__ import annotations

from dataclasses import dataclass

PROMPT_TOKENS = 77
"""Length of every CLIP prompt, start and end token included (CLIP, arXiv:2103.00020)."""


@dataclass(frozen=True)
class Target:
    """The text-encoder space of one diffusion family."""

    name: str
    width: int  # channels of one token = cross_attention_dim of the UNet
    pooled_width: int | None  # channels of the pooled embedding, None where the family has none
    family: str  # the diffusion models it fits, as users name them
    convention: str  # which hidden state of which text encoder the tokens stand in for


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "sd15",
            768,
            None,
            "Stable Diffusion 1.x",
            "CLIP-L, last hidden state after the final LayerNorm",
        ),
        Target(
            "sd21",
            1024,
            None,
            "Stable Diffusion 2.x",
            "OpenCLIP-H, penultimate layer, then the final LayerNorm",
        ),
        Target(
            "sdxl",
            2048,
            1280,
            "Stable Diffusion XL",
            "CLIP-L penultimate joined with OpenCLIP-bigG penultimate, both without the final LayerNorm; "
            "pooled = OpenCLIP-bigG text projection",
        ),
        Target(
            "mini",
            256,
            None,
            "the embedded mini model",
            "the embedded CLIP text model, last hidden state after the final LayerNorm",
        ),
    )
}


def get_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        ValueError: no such target; the message lists the names.
    """
    try:
        return TARGETS[name]
    except (KeyError, TypeError):
        raise ValueError(f"unknown target {repr(name)[:60]}: choose one of {', '.join(TARGETS)}") from None


def target_of_width(width: int, *, pooled: bool = False) -> Target | None:
    """The target whose tokens are `width` wide and that has a pooled embedding or not; None if there is none."""
    for target in TARGETS.values():
        if target.width == width and (target.pooled_width is not None) == pooled:
            return target
    return None


def check_fits(target_name: str, cross_attention_dim: int, *, pooled: bool) -> None:
    """Refuse a checkpoint's target that the diffusion model cannot take.

    Args:
        target_name: the target that the encoder was trained for.
        cross_attention_dim: width of the prompt tokens that the diffusion model takes.
        pooled: whether the diffusion model also takes a pooled embedding.

    Raises:
        ValueError: they do not fit; the message names both sides and what would fit.
    """
    target = get_target(target_name)
    if target.width == cross_attention_dim and (target.pooled_width is not None) == pooled:
        return
    needed = target_of_width(cross_attention_dim, pooled=pooled)
    takes = f"tokens of width {cross_attention_dim}{' and a pooled embedding' if pooled else ''}"
    fits = f"an encoder for {needed.name!r}" if needed else "none of the known targets"
    raise ValueError(
        f"the encoder was trained for {target.name!r} ({target.family}, width {target.width}), but the diffusion "
        f"model takes {takes}: {fits} would fit it, or use {target.family} as diffusion model"
    )
