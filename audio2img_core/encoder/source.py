"""A checkpoint's name and config: find what is named, and refuse pickles and foreign files by their names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, Wav2Vec2BertConfig

from ..checks import first_line
from ..mini import names as mini
from .bounds import shortened
from .config import AudioEncoderConfig, checked_backbone

METADATA_KEY = "audio2img_config"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def located(name_or_path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the folder of the embedded encoder for "mini", else the name itself."""
    return mini.ENCODER if name_or_path == mini.NAME else name_or_path


def read_config(name_or_path: str | os.PathLike[str], **hub_options: Any) -> AudioEncoderConfig | Wav2Vec2BertConfig:
    """Read the config of a checkpoint of any form, without its weights.

    Args:
        name_or_path: "mini", folder, `.safetensors` file, or hub id.
        hub_options: `cache_dir`, `force_download`, `local_files_only`, `token`, `revision`, `subfolder`.

    Returns:
        A `Wav2Vec2BertConfig` for a kardSIM folder, else an `AudioEncoderConfig`.

    Raises:
        FileNotFoundError: nothing there. ValueError: not an audio encoder's checkpoint.
    """
    name_or_path = located(name_or_path)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return _parse_config(_read_metadata(path), str(path))
    check_exists(path, str(name_or_path))
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(f"{path}: no encoder: this folder holds no config.json")
    try:
        data, _ = PretrainedConfig.get_config_dict(path if path.is_dir() else str(name_or_path), **hub_options)
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name_or_path}: its config.json cannot be read: {first_line(error)}") from error
    return _parse_config(data, str(name_or_path))


def _parse_config(data: dict[str, Any], source: str) -> AudioEncoderConfig | Wav2Vec2BertConfig:
    kinds = {c.model_type: c for c in (AudioEncoderConfig, Wav2Vec2BertConfig)}
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{source}: model_type {shortened(kind)} is no audio encoder; allowed are {', '.join(kinds)}")
    data = {name: value for name, value in data.items() if name != "model_type"}
    try:
        return AudioEncoderConfig(**data) if kind == AudioEncoderConfig.model_type else checked_backbone(data)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{source}: its config is wrong: {first_line(error)}") from error


def _read_metadata(path: Path) -> dict[str, Any]:
    if path.suffix in PICKLE_SUFFIXES:
        raise ValueError(_pickle_message(path))
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file ({first_line(error)})") from error
    if METADATA_KEY not in metadata:
        raise ValueError(f"{path}: no audio2img encoder: its metadata holds no {METADATA_KEY!r}")
    try:
        config = json.loads(metadata[METADATA_KEY])
        if not isinstance(config, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its config is no JSON ({first_line(error)})") from error
    return config


def check_exists(path: Path, name: str) -> None:
    """A name that looks like a path must exist; anything else may be a hub id."""
    if path.is_dir():
        return
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1 or "\\" in name
    if looks_local or path.suffix in (".safetensors", *PICKLE_SUFFIXES):
        raise FileNotFoundError(f"{name}: no such encoder folder or file")


def refuse_foreign_folder(path: Path) -> None:
    """Refuse a folder of pickles, and one of an adapter, for which transformers would load another model."""
    if (path / "adapter_config.json").is_file():
        raise ValueError(f"{path}: holds an adapter for another model (adapter_config.json); merge it with its model")
    if any(path.glob("*.safetensors")):
        return
    pickles = [p for suffix in PICKLE_SUFFIXES for p in sorted(path.glob(f"*{suffix}"))]
    raise ValueError(_pickle_message(pickles[0]) if pickles else f"{path}: holds no .safetensors weights")


def _pickle_message(path: Path) -> str:
    return (
        f"{path}: pickle files can run code and are not loaded; where you trust it, convert it once with: "
        'python -c "import sys, torch, safetensors.torch as s; '
        "s.save_file(torch.load(sys.argv[1], weights_only=True, map_location='cpu'), 'model.safetensors')\" "
        f"{path.name}"
    )
