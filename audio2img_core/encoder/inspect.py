"""What a checkpoint is, for people."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import Wav2Vec2BertConfig

from ..checks import first_line
from ..mini import names as mini
from ..targets import get_target
from .kardsim import kardsim_config
from .source import located, read_config

if TYPE_CHECKING:
    from .model import AudioEncoder


def describe(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint is, from its config and its files' headers alone: facts by name, for people.

    Raises:
        FileNotFoundError, ValueError: as `read_config`.
    """
    config = read_config(name_or_path)
    path = Path(located(name_or_path)).expanduser()
    form = "single file" if path.is_file() else "folder" if path.is_dir() else "hub id"
    if isinstance(config, Wav2Vec2BertConfig):
        config, form = kardsim_config(name_or_path, config), f"plain Wav2Vec2-BERT {form}"
    elif name_or_path == mini.NAME:
        form = "embedded"
    weights = _headers([path] if path.is_file() else sorted(path.glob("*.safetensors")))
    target, window = get_target(config.target), config.window
    bos = "BOS and " if config.prepend_bos else ""
    return {
        "encoder": str(name_or_path),
        "form": form,
        "target": f"{target.name} ({target.family}; {target.convention})",
        "window": f"{window.seconds:g} s every {window.hop:g} s",
        "tokens": f"{bos}{config.num_tokens} x {config.token_dim} a window, {config.head.kind} head",
        "pooled": "none" if config.pooled_dim is None else str(config.pooled_dim),
        "empty prompt": "carried" if config.null_prompt else "not carried: comes from the diffusion model",
        "backbone": f"{config.backbone.num_hidden_layers} layers x {config.backbone.hidden_size}",
        **weights,
        "training": config.training,
    }


def in_a_line(encoder: AudioEncoder) -> str:
    """What a loaded encoder is, in a line."""
    config = encoder.config
    size, dtype = encoder.num_parameters() / 1e6, str(encoder.dtype).removeprefix("torch.")
    return (
        f"{config.target} ({get_target(config.target).family}): {config.num_tokens} tokens from "
        f"{config.window.seconds:g} s, {size:.3g} M parameters, {dtype}"
    )


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, "pt") as opened:
            yield opened
    except SafetensorError as error:
        raise ValueError(f"{file}: not a whole safetensors file ({first_line(error)})") from error


def _headers(files: list[Path]) -> dict[str, Any]:
    """Parameters, dtype and size of safetensors files, from their headers."""
    if not files:
        return {}
    total, dtypes = 0, set()
    for file in files:
        with _opened(file) as opened:
            for name in opened.keys():  # noqa: SIM118 - a safe_open is no mapping
                view = opened.get_slice(name)
                total += torch.Size(view.get_shape()).numel()
                dtypes.add(str(view.get_dtype()))
    size = sum(file.stat().st_size for file in files)
    return {"parameters": total, "dtype": ", ".join(sorted(dtypes)), "size": f"{size / 1e6:.1f} MB"}
