"""Text prompts through a diffusers pipeline's own text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .prompt import Conditioning


@torch.no_grad()
def encode_text(diffusion: Any, text: str) -> Conditioning:
    """The conditioning that the pipeline itself makes of `text`: tokens [1, 77, D], pooled [1, P] for XL.

    Args:
        diffusion: a diffusers pipeline of the Stable Diffusion 1.x, 2.x or XL kind, ControlNet forms included.
        text: the prompt; "" is the empty prompt, encoded and never replaced by zeros.

    Raises:
        ValueError: the pipeline has no text encoder.
    """
    if getattr(diffusion, "text_encoder", None) is None or getattr(diffusion, "tokenizer", None) is None:
        raise ValueError("a text prompt needs a diffusion model with its text encoder and tokenizer")
    device = diffusion.text_encoder.device
    encoded = diffusion.encode_prompt(text, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False)
    pooled = encoded[2] if len(encoded) == 4 else None  # XL: tokens, negative, pooled, negative pooled
    return Conditioning(encoded[0].float(), None if pooled is None else pooled.float())


def null_conditioning_of(diffusion: Any) -> Conditioning:
    """The empty prompt of the pipeline's text encoders: tokens [1, 77, D], pooled [1, P] for XL."""
    return encode_text(diffusion, "")


def encode_texts(diffusion: Any, texts: Sequence[str]) -> Tensor:
    """The prompt tokens [M, 77, D] float32 that the pipeline's text encoder gives for texts, one after the other."""
    return torch.cat([encode_text(diffusion, text).tokens for text in texts])
