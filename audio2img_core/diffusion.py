"""Finding, loading and shaping a diffusers pipeline: folders, single files, hub ids, ControlNet, image-to-image."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from . import mini
from .checkpoint import PICKLE_SUFFIXES
from .checks import first_line
from .targets import check_fits

FAMILIES = ("StableDiffusion", "StableDiffusionXL")


def load_diffusion(
    name_or_path: str | os.PathLike[str],
    *,
    controlnet: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A diffusers pipeline on the CPU, as text-to-image whatever its folder says.

    Args:
        name_or_path: "mini", a diffusers folder, a hub id, or a single `.safetensors` file of Stable Diffusion 1.x,
            2.x or XL; its configs come from a diffusers folder of the same name beside it, else from the hub.
        controlnet: a ControlNet's folder or hub id, for a pipeline with ControlNet.
        dtype: of all weights.

    Raises:
        FileNotFoundError: nothing there. ValueError: a pickle, or no Stable Diffusion model.
    """
    from diffusers import AutoPipelineForText2Image, ControlNetModel, DiffusionPipeline, StableDiffusionPipeline

    if name_or_path == mini.NAME:
        if controlnet is not None:
            raise ValueError("the mini model has no ControlNet: name another diffusion model")
        model = mini.load_mini_diffusion()
        return model if dtype == torch.float32 else model.to(dtype)
    path = _existing(name_or_path, "diffusion model")
    net_path = None if controlnet is None else _existing(controlnet, "ControlNet")
    try:
        if path.is_file():
            diffusion = _load_single_file(path, dtype)
        else:
            diffusion = DiffusionPipeline.from_pretrained(str(path), use_safetensors=True, torch_dtype=dtype)
        net = None
        if net_path is not None:
            net = ControlNetModel.from_pretrained(str(net_path), use_safetensors=True, torch_dtype=dtype)
    except OSError as error:
        raise ValueError(f"{name_or_path}: cannot be loaded as a diffusion model: {first_line(error)}") from error
    if not hasattr(diffusion, "unet") or not type(diffusion).__name__.startswith(FAMILIES):
        raise ValueError(
            f"{name_or_path}: a {type(diffusion).__name__} takes no CLIP prompt; allowed are the Stable Diffusion "
            f"1.x, 2.x and XL pipelines (such as {StableDiffusionPipeline.__name__})"
        )
    if diffusion.unet.config.in_channels != 4:
        raise ValueError(f"{name_or_path}: an inpainting or depth model takes more than a prompt; use its base model")
    options = {} if net is None else {"controlnet": net}
    return AutoPipelineForText2Image.from_pipe(diffusion, **options)


def as_image_to_image(diffusion: Any) -> Any:
    """The image-to-image form of a pipeline, sharing its weights."""
    from diffusers import AutoPipelineForImage2Image

    return AutoPipelineForImage2Image.from_pipe(diffusion)


def check_fits_before_loading(target: str, name_or_path: str | os.PathLike[str]) -> None:
    """`targets.check_fits` from a local folder's config alone, where there is one: it saves loading gigabytes.

    Raises:
        ValueError: the encoder's target does not fit the diffusion model.
    """
    file = Path(name_or_path).expanduser() / "unet" / "config.json"
    if file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
        width = config.get("cross_attention_dim")
        width = width[0] if isinstance(width, list) and width else width
        if isinstance(width, int):
            check_fits(target, width, pooled=config.get("addition_embed_type") == "text_time")


def token_width(diffusion: Any) -> int:
    """Width of the prompt tokens that the pipeline's UNet attends to."""
    width = diffusion.unet.config.cross_attention_dim
    return width if isinstance(width, int) else width[0]


def takes_pooled(diffusion: Any) -> bool:
    """Whether the pipeline's UNet also takes a pooled prompt embedding (XL)."""
    return diffusion.unet.config.addition_embed_type == "text_time"


def _load_single_file(path: Path, dtype: torch.dtype) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        hint = (
            "pickle files can run code and are not loaded" if path.suffix in PICKLE_SUFFIXES else "unknown kind of file"
        )
        raise ValueError(f"{path}: {hint}; a single-file diffusion model must be a .safetensors file")
    try:
        with safe_open(path, "pt") as opened:
            xl = any(name.startswith("conditioner.embedders.1.") for name in opened.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({first_line(error)})") from error
    cls = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    config = path.with_suffix("")  # the model's configs, where they lie beside it under the same name
    options = {"config": str(config)} if (config / "model_index.json").is_file() else {}
    return cls.from_single_file(str(path), torch_dtype=dtype, **options)


def _existing(name_or_path: str | os.PathLike[str], what: str) -> Path:
    """Its path; a name of the form owner/name that does not exist here may be a hub id."""
    path, name = Path(name_or_path).expanduser(), str(name_or_path)
    if path.exists() or (name.count("/") == 1 and not name.startswith((".", "/", "~")) and not path.suffix):
        return path
    raise FileNotFoundError(f"{name}: no such {what}; allowed are a folder, a .safetensors file or a hub id owner/name")
