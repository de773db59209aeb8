"""Finding, loading and shaping a diffusers pipeline: folders, single files, hub ids, ControlNet, image-to-image."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its classes lazily.)
from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..checks import first_line
from ..devices import weights_in
from ..encoder.checkpoint import PICKLE_SUFFIXES, load_strictly
from ..mini import names as mini
from .families import FAMILIES, token_width


def load_diffusion(
    name_or_path: str | os.PathLike[str],
    *,
    controlnet: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Load a diffusers pipeline to the CPU, as text-to-image whatever its folder says.

    Args:
        name_or_path: "mini", a diffusers folder, a hub id, or a single `.safetensors` file of Stable Diffusion 1.x,
            2.x or XL; its configs come from a diffusers folder of the same name beside it, else from the hub.
        controlnet: Folder or hub id of a ControlNet, for a pipeline with ControlNet.
        dtype: Dtype of all weights.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: A pickle, or no Stable Diffusion model.
    """
    source, net_source = find_diffusion(name_or_path, controlnet)
    if source == mini.NAME:
        model = load_mini_diffusion()
        return model if dtype == torch.float32 else model.to(dtype)
    # The automatic pipelines import every other one, which takes a second that mini's first picture need not wait for.
    from diffusers import AutoPipelineForText2Image, ControlNetModel, DiffusionPipeline, StableDiffusionPipeline

    # Broken folders fail in the libraries with whatever comes first: each becomes one line with the folder's name.
    with _named(source):
        if Path(source).is_file():
            diffusion = _load_single_file(Path(source), dtype)
        else:
            encoders = _load_text_encoders(source, dtype)
            diffusion = DiffusionPipeline.from_pretrained(source, use_safetensors=True, **weights_in(dtype), **encoders)
    if not hasattr(diffusion, "unet") or not type(diffusion).__name__.startswith(FAMILIES):
        raise ValueError(
            f"{source}: a {type(diffusion).__name__} takes no CLIP prompt; allowed are the Stable Diffusion "
            f"1.x, 2.x and XL pipelines (such as {StableDiffusionPipeline.__name__})"
        )
    if diffusion.unet.config.in_channels != 4:
        raise ValueError(f"{source}: an inpainting or depth model takes more than a prompt; use its base model")
    _check_whole(source, diffusion)
    if net_source is None:
        return AutoPipelineForText2Image.from_pipe(diffusion)
    with _named(net_source):
        net: Any = ControlNetModel.from_pretrained(net_source, use_safetensors=True, **weights_in(dtype))
    if net.config.cross_attention_dim != diffusion.unet.config.cross_attention_dim:
        raise ValueError(
            f"{net_source}: this ControlNet takes tokens of width {net.config.cross_attention_dim}, but the diffusion "
            f"model takes {token_width(diffusion)}: use a ControlNet made for that model"
        )
    return AutoPipelineForText2Image.from_pipe(diffusion, controlnet=net)


def load_mini_diffusion() -> Any:
    """The embedded `StableDiffusionPipeline`, in float32."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # diffusers warns of the small autoencoder, which works all the same
    try:
        return StableDiffusionPipeline.from_pretrained(
            mini.DIFFUSION, **weights_in(torch.float32), use_safetensors=True, safety_checker=None
        )
    finally:
        logging.set_verbosity(level)


shared_mini_diffusion = functools.cache(load_mini_diffusion)
"""`load_mini_diffusion`, loaded once: for its text encoder, which nobody changes."""


def find_diffusion(
    name_or_path: str | os.PathLike[str], controlnet: str | os.PathLike[str] | None = None
) -> tuple[str, str | None]:
    """Find both models and load nothing: their paths, or hub ids where nothing of that name lies here.

    Raises:
        FileNotFoundError: Nothing there, and no hub id.
        ValueError: A ControlNet for mini.
    """
    if name_or_path != mini.NAME:
        net = None if controlnet is None else _locate(controlnet, "ControlNet")
        return _locate(name_or_path, "diffusion model"), net
    if controlnet is not None:
        raise ValueError("the mini model has no ControlNet: name another diffusion model")
    return mini.NAME, None


def as_image_to_image(diffusion: Any) -> Any:
    """The image-to-image form of a pipeline, sharing its weights."""
    from diffusers import AutoPipelineForImage2Image

    return AutoPipelineForImage2Image.from_pipe(diffusion)


def _load_single_file(path: Path, dtype: torch.dtype) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

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
    return cls.from_single_file(str(path), **weights_in(dtype), **options)


def _load_text_encoders(source: str, dtype: torch.dtype) -> dict[str, Any]:
    """The text encoders that a pipeline's index names, each whole: diffusers would fill gaps with random numbers."""
    import transformers
    from diffusers import DiffusionPipeline

    index: Any = DiffusionPipeline.load_config(source)
    found = {}
    for name, entry in index.items():
        if name.startswith("text_encoder") and isinstance(entry, (list, tuple)) and entry[0] == "transformers":
            cls = getattr(transformers, entry[1])
            # Old files carry position numbers that newer code computes: more than enough is no harm here.
            found[name] = load_strictly(cls.from_pretrained, source, subfolder=name, dtype=dtype, allow_unexpected=True)
    return found


def _check_whole(source: str, diffusion: Any) -> None:
    for name, part in diffusion.components.items():
        if isinstance(part, torch.nn.Module):
            missing = [key for key, tensor in part.state_dict().items() if tensor.is_meta]
            if missing:
                raise ValueError(f"{source}: its {name} lacks {len(missing)} weights ({', '.join(missing[:3])}, ...)")


def _locate(name_or_path: str | os.PathLike[str], what: str) -> str:
    """The name itself; where nothing of that name exists here, it must look like a hub id owner/name."""
    name = str(name_or_path)
    if Path(name).expanduser().exists():
        return str(Path(name).expanduser())
    local = name.startswith((".", "/", "~")) or name.endswith((".safetensors", *PICKLE_SUFFIXES))
    if name.count("/") == 1 and not local:
        return name
    raise FileNotFoundError(f"{name}: no such {what}; allowed are a folder, a .safetensors file or a hub id owner/name")


@contextlib.contextmanager
def _named(source: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever goes wrong while loading `source`, as one line that names it."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, SafetensorError) as error:
        # One of our own names the place already.
        words = first_line(error).removeprefix(f"{source}: ")
        raise ValueError(f"{source}: cannot be loaded as a part of a diffusion model: {words}") from error
