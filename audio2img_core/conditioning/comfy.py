"""`Conditioning` as ComfyUI's CONDITIONING, and back."""

from __future__ import annotations

from typing import Any

from ..targets import target_of_width
from .blend import blend
from .prompt import Conditioning


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
        left, right = Conditioning(tokens, extra.get("pooled_output")), other
        lacks_one = left.pooled is None or right.pooled is None
        if lacks_one and target_of_width(tokens.shape[-1], pooled=True) is None:
            left, right = Conditioning(left.tokens), Conditioning(right.tokens)
        mixed = blend(left, right, weight, mode=mode)
        blended.append([mixed.tokens, extra if mixed.pooled is None else {**extra, "pooled_output": mixed.pooled}])
    return blended
