"""What a diffusion model takes, read off the loaded model or, before that, off the config files of a local folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..checks import first_line
from ..mini import names as mini
from ..targets import check_fits

FAMILIES = ("StableDiffusion", "StableDiffusionXL")


def token_width(diffusion: Any) -> int:
    """Width of the prompt tokens that the pipeline's UNet attends to."""
    width = diffusion.unet.config.cross_attention_dim
    return width if isinstance(width, int) else width[0]


def takes_pooled(diffusion: Any) -> bool:
    """Whether the pipeline's UNet also takes a pooled prompt embedding (XL)."""
    return diffusion.unet.config.addition_embed_type == "text_time"


def check_target_before_loading(target: str, name_or_path: str | os.PathLike[str]) -> None:
    """Compare an encoder's target with a local folder's config, where there is one: it saves loading gigabytes.

    Raises:
        ValueError: The encoder's target does not fit the diffusion model, or the config is damaged.
    """
    config = _read_config(name_or_path, "unet")
    width = config.get("cross_attention_dim")
    width = width[0] if isinstance(width, list) and width else width
    if isinstance(width, int):
        check_fits(target, width, pooled=config.get("addition_embed_type") == "text_time")


def size_multiple_before_loading(name_or_path: str | os.PathLike[str]) -> int | None:
    """Number of pixels that a model's image sizes are multiples of, by its folder's config; None without one.

    Raises:
        ValueError: The config is damaged.
    """
    config = _read_config(mini.DIFFUSION if name_or_path == mini.NAME else name_or_path, "vae")
    # diffusers' own rule; its small autoencoder has the second name.
    levels = config.get("block_out_channels") or config.get("decoder_block_out_channels")
    return 2 ** (len(levels) - 1) if isinstance(levels, list) else None


def _read_config(name_or_path: str | os.PathLike[str], part: str) -> dict[str, Any]:
    """Read the config of a part of a diffusers folder; return an empty one if the part has no config."""
    file = Path(name_or_path).expanduser() / part / "config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be loaded as a part of a diffusion model: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file}: cannot be loaded as a part of a diffusion model: not a JSON object")
    return config
