"""The host that the nodes run in: ComfyUI, or plain folders and devices outside it.

The one file that touches `comfy` and `folder_paths`, but for what `diffusion.py` needs of `comfy`.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..audio2img_core import devices
from ..audio2img_core.conditioning.comfy import from_comfy
from ..audio2img_core.conditioning.prompt import Conditioning
from ..audio2img_core.conditioning.text import encode_texts
from ..audio2img_core.encoder.embeddings import TokenSpace
from ..audio2img_core.mini.names import NAME as MINI
from ..audio2img_core.storage.files import AUDIO_SUFFIXES, walk_files
from ..audio2img_core.targets import check_fits, target_of_width

try:
    import comfy.model_management
    import comfy.model_patcher
    import comfy.utils
    import folder_paths
except ImportError:
    comfy = folder_paths = None

if TYPE_CHECKING:
    from ..audio2img_core.encoder.model import AudioEncoder

ENCODERS = "audio_encoders"
EXAMPLES = Path(__file__).parents[1] / "examples"
_EXAMPLE = " [example]"


@dataclass(frozen=True)
class ManagedEncoder:
    """An audio encoder that the host moves to its device when it is needed: the type A2I_ENCODER."""

    name: str
    encoder: AudioEncoder
    patcher: Any = None  # ComfyUI's ModelPatcher, None outside ComfyUI

    def ready(self) -> AudioEncoder:
        """The encoder, loaded to the device that the host has for it."""
        if self.patcher is not None and comfy is not None:
            # Layers of transformers are not cast one by one as ComfyUI's own: all of the model, or nothing.
            comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        return self.encoder


class _Box(torch.nn.Module):
    """A plain module around a transformers model, whose read-only `device` ComfyUI's ModelPatcher cannot set."""

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        self.encoder = encoder


def manage_encoder(name: str, encoder: AudioEncoder) -> ManagedEncoder:
    """Hand an encoder over to the host's model management."""
    if comfy is None:
        return ManagedEncoder(name, encoder.to(_encoder_device()))  # pyright: ignore[reportArgumentType]
    patcher = comfy.model_patcher.ModelPatcher(
        _Box(encoder),
        load_device=_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
    )
    return ManagedEncoder(name, encoder, patcher)


def encoder_dtype(name: str, encoder_name: str) -> torch.dtype | str:
    """A dtype by name; "auto" is what `devices.encoder_dtype` says for that encoder."""
    # Not ComfyUI's own text_encoder_dtype: it says float16 on a CPU, which is slow there and overflows.
    return devices.encoder_dtype(_encoder_device(), encoder_name, None if name == "auto" else name)


def intermediate_device() -> torch.device:
    """Where tensors wait between nodes."""
    return torch.device("cpu") if comfy is None else comfy.model_management.intermediate_device()


def input_files() -> list[str]:
    """Sounds and videos in the input folder and below, as paths relative to it, then "NAME [example]" of the pack's."""
    return _sounds_below(_input_root()) + [name + _EXAMPLE for name in _sounds_below(EXAMPLES)]


def input_path(name: str) -> Path:
    """The file that an input named `name` means.

    Raises:
        ValueError: it lies outside the host's folders, or is no text. FileNotFoundError: there is none.
    """
    if not isinstance(name, str):
        raise ValueError(f"audio_file must be the name of a file in the input folder, not {name!r}")
    if name.endswith(_EXAMPLE):
        example = name.removesuffix(_EXAMPLE)
        if example not in (known := _sounds_below(EXAMPLES)):
            raise FileNotFoundError(f"{name}: no such example; there are {', '.join(known)}")
        return EXAMPLES / example
    if folder_paths is None:
        path, roots = _input_root() / name, [_input_root()]
    else:
        path = Path(folder_paths.get_annotated_filepath(name))
        roots = [
            Path(get())
            for get in (
                folder_paths.get_input_directory,
                folder_paths.get_output_directory,
                folder_paths.get_temp_directory,
            )
        ]
    if "\0" in name or not any(_lies_in(path, root) for root in roots):
        raise ValueError(f"{name!r} lies outside the input folder")
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no such file in the input folder")
    return path


def encoder_names() -> list[str]:
    """ "mini", and the single files and folders in `models/audio_encoders`."""
    names = [MINI]
    for root in _encoder_roots():
        below = list(walk_files(root, follow_links=True))
        folders = {p.parent for p in below if p.name == "config.json"}
        files = {p for p in below if p.suffix == ".safetensors" and p.parent not in folders}
        names += sorted(p.relative_to(root).as_posix() for p in files | folders)
    return list(dict.fromkeys(names))


def encoder_path(name: str) -> str:
    """What `AudioEncoder.from_pretrained` takes for one of `encoder_names`.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    if name == MINI:
        return name
    if name in encoder_names():
        return next(str(root / name) for root in _encoder_roots() if (root / name).exists())
    raise FileNotFoundError(f"{name}: no such encoder in models/{ENCODERS}; there are {', '.join(encoder_names())}")


def show(node: str | None, text: str) -> None:
    """Write a text on a node on the canvas; elsewhere, and in a ComfyUI that has no such text, nothing happens."""
    instance = _server()
    if node is not None and hasattr(instance, "send_progress_text"):
        instance.send_progress_text(text, node)


def check_model(model: Any, target: str) -> None:
    """Refuse a ComfyUI MODEL that does not take the prompts of a target.

    Raises:
        ValueError: it takes others; the message names both sides and what would fit. Models that take no CLIP
            prompts at all are refused too.
    """
    config = model.model.model_config.unet_config
    width = config.get("context_dim")
    if not isinstance(width, int):
        raise ValueError(f"the model takes no CLIP prompt, and the encoder was trained for {target!r}")
    pooled = config.get("adm_in_channels") is not None and target_of_width(width, pooled=True) is not None
    check_fits(target, width, pooled=pooled)


def progress() -> Callable[[int, int], None]:
    """An `on_step` that moves the node's progress bar and stops where the user cancels."""
    bar = None

    def on_step(done: int, total: int) -> None:
        nonlocal bar
        if comfy is None:
            return
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)

    return on_step


def text_prompt(clip: Any, text: str = "") -> Conditioning:
    """What a ComfyUI CLIP makes of a text; the empty prompt by itself."""
    return from_comfy(clip.encode_from_tokens_scheduled(clip.tokenize(text)))


def null_prompt(space: TokenSpace, clip: Any = None) -> Conditioning | None:
    """The empty prompt of a CLIP where the checkpoint carries none; None = the checkpoint's own, or nobody has one."""
    return text_prompt(clip) if clip is not None and space.null_tokens is None else None


def encode_captions(target: str, captions: Sequence[str], clip: Any = None) -> torch.Tensor:
    """The prompts [M, 77, D] of captions: by a ComfyUI CLIP, or by the embedded text encoder for mini.

    Raises:
        ValueError: another target than mini, and no CLIP.
    """
    if clip is not None:
        return torch.cat([text_prompt(clip, caption).tokens for caption in captions])
    if target == MINI:
        from ..audio2img_core.generation.loading import shared_mini_diffusion

        return encode_texts(shared_mini_diffusion(), captions)
    raise ValueError(f"captions for an encoder of target {target!r} need the CLIP of its diffusion model: connect one")


def serve_examples() -> None:
    """Have ComfyUI's server hand out the example sounds at /audio2img/examples, for the page to play them."""
    if (instance := _server()) is not None:
        instance.routes.static("/audio2img/examples", EXAMPLES)


def _server() -> Any:
    """ComfyUI's server, None where none runs."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def _sounds_below(root: Path) -> list[str]:
    sounds = (p for p in walk_files(root) if p.suffix.lower() in AUDIO_SUFFIXES)
    found = (p for p in sounds if p.is_file() and (not p.is_symlink() or _lies_in(p, root)))
    return sorted(p.relative_to(root).as_posix() for p in found)


def _lies_in(path: Path, root: Path) -> bool:
    """Whether a path, its links followed, lies in a folder."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except RuntimeError:  # links in a circle, before Python 3.13
        return False


def _encoder_device() -> torch.device:
    return devices.resolve_device(None) if comfy is None else comfy.model_management.text_encoder_device()


def _input_root() -> Path:
    if folder_paths is not None:
        return Path(folder_paths.get_input_directory())
    return Path(os.environ.get("AUDIO2IMG_INPUT", "input"))


def _encoder_roots() -> list[Path]:
    if folder_paths is not None:
        roots = [Path(root) for root in folder_paths.get_folder_paths(ENCODERS)]
    else:
        roots = [Path(os.environ.get("AUDIO2IMG_MODELS", "models")) / ENCODERS]
    return [root for root in roots if root.is_dir()]
