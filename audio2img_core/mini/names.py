"""Names and places of the embedded default, called "mini" wherever an encoder or a diffusion model is named."""

from __future__ import annotations

import functools
import json
from pathlib import Path

NAME = "mini"
FOLDER = Path(__file__).parent
ENCODER = FOLDER / "encoder"
DIFFUSION = FOLDER / "diffusion"
SAMPLER = (12, 5.0)
"""Sampler steps and guidance scale that suit the embedded diffusion model."""


@functools.cache
def captions() -> tuple[str, ...]:
    """The captions that the embedded encoder was trained on: "a piano", "a dog"."""
    return tuple(json.loads((FOLDER / "captions.json").read_text(encoding="utf-8")))
