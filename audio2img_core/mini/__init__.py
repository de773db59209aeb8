"""The embedded default, called "mini" wherever an encoder or a diffusion model is named.

Its weights lie beside this file: `encoder/` an `AudioEncoder`, `diffusion/` a diffusers `StableDiffusionPipeline` with
the text encoder that taught it, `captions.json` what it can name. README.md there tells on what it was trained.
"""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ..encoder import AudioEncoder

logger = logging.getLogger(__name__)

NAME = "mini"
FOLDER = Path(__file__).parent
SAMPLER = (12, 3.0)
"""Sampler steps and guidance that it draws best with."""


def is_trained() -> bool:
    """Whether the trained weights are here: a checkout without them falls back to an untrained tiny pair."""
    return (FOLDER / "encoder" / "model.safetensors").is_file() and (FOLDER / "diffusion").is_dir()


def load_mini_encoder() -> AudioEncoder:
    """The audio encoder of the embedded default, in float32."""
    if is_trained():
        from ..encoder import AudioEncoder

        return AudioEncoder.from_pretrained(FOLDER / "encoder")
    from ..untrained import make_pair

    _warn()
    return make_pair(NAME)[0]


def load_mini_diffusion() -> Any:
    """The diffusers pipeline of the embedded default, in float32."""
    if is_trained():
        import torch
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline.from_pretrained(
            FOLDER / "diffusion", torch_dtype=torch.float32, use_safetensors=True, safety_checker=None
        )
    from ..untrained import make_diffusion

    _warn()
    return make_diffusion(NAME)


@functools.cache
def captions() -> tuple[str, ...]:
    """The plain names of what it was trained to hear and to draw: "a piano", "a dog"; none while it is untrained."""
    file = FOLDER / "captions.json"
    return tuple(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else ()


def encode_texts(texts: Sequence[str]) -> Tensor:
    """What the embedded text encoder makes of texts: [M, 77, D] float32."""
    import torch

    from ..text import encode_text

    return torch.cat([encode_text(_loaded_diffusion(), text).tokens for text in texts])


@functools.cache
def _loaded_diffusion() -> Any:
    return load_mini_diffusion()


@functools.cache
def _warn() -> None:
    logger.warning(
        "no trained default is embedded: 'mini' is an untrained tiny model, and what it draws is noise; "
        "name your own with --encoder and --diffusion"
    )
