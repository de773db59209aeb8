"""The embedded default, called "mini" wherever an encoder or a diffusion model is named.

Its weights lie beside this file: `encoder/` an `AudioEncoder`, `diffusion/` a diffusers `StableDiffusionPipeline` with
the text encoder that taught it, `captions.json` what it can name. README.md there tells on what it was trained.
"""

from __future__ import annotations

import functools
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import Tensor

    from ..encoder.model import AudioEncoder

NAME = "mini"
FOLDER = Path(__file__).parent
SAMPLER = (12, 5.0)
"""Sampler steps and guidance that it draws best with."""


def load_mini_encoder(dtype: torch.dtype | None = None) -> AudioEncoder:
    """The audio encoder of the embedded default; None = float32."""
    from ..encoder.model import AudioEncoder

    return AudioEncoder.from_pretrained(FOLDER / "encoder", dtype=dtype)


def load_mini_diffusion() -> Any:
    """The diffusers pipeline of the embedded default, in float32."""
    import torch
    from diffusers import StableDiffusionPipeline

    from ..devices import weights_in

    with _quiet_diffusers():  # it warns of the small autoencoder, which it draws with all the same
        return StableDiffusionPipeline.from_pretrained(
            FOLDER / "diffusion", **weights_in(torch.float32), use_safetensors=True, safety_checker=None
        )


@functools.cache
def captions() -> tuple[str, ...]:
    """The plain names of what it was trained to hear: "a piano", "a dog"."""
    return tuple(json.loads((FOLDER / "captions.json").read_text(encoding="utf-8")))


def encode_texts(texts: Sequence[str]) -> Tensor:
    """What the embedded text encoder makes of texts: [M, 77, D] float32."""
    import torch

    from ..conditioning.text import encode_text

    return torch.cat([encode_text(_loaded_diffusion(), text).tokens for text in texts])


@functools.cache
def _loaded_diffusion() -> Any:
    return load_mini_diffusion()


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
