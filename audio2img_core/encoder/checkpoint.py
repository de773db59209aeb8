"""Checkpoint forms of the audio encoder: folder, single file, and the seed project's plain backbone folders.

- A folder (or hub id) with `config.json` and `model.safetensors`, sharded or not: what `save_pretrained` writes.
- ONE `.safetensors` file with the config as JSON in its metadata: what goes into ComfyUI's `models/audio_encoders`.
- A folder (or hub id) of a plain `Wav2Vec2BertModel` with its adapter, as the project kardSIM/audio2img published
  them (`youzarsif/wav2vec2bert_2_diffusion`).

Only safetensors is read, and every weight must be there, no more and no less.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PretrainedConfig, Wav2Vec2BertConfig

from .. import mini
from ..checks import first_line
from ..devices import INT8, encoder_dtype, resolve_device, resolve_dtype
from ..storage.files import whole_file, whole_folder
from .bounds import shortened
from .config import AudioEncoderConfig, checked_backbone
from .kardsim import seed_config, seed_name, seed_weights
from .weights import check_files, check_finite, raise_on_names, read_weights, weight_files

if TYPE_CHECKING:
    from .model import AudioEncoder

logger = logging.getLogger(__name__)

METADATA_KEY = "audio2img_config"
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def load_encoder(
    cls: type[AudioEncoder],
    load_folder: Callable[..., Any],
    name_or_path: str | os.PathLike[str],
    *args: Any,
    dtype: torch.dtype | str | None = None,
    **kwargs: Any,
) -> AudioEncoder:
    """Load any checkpoint form, in evaluation mode.

    Args:
        cls: `AudioEncoder` or a subclass of it.
        load_folder: `PreTrainedModel.from_pretrained` of that class.
        name_or_path: "mini", folder, `.safetensors` file, or hub id.
        dtype: of the weights; None = float32; "int8" = those of the backbone's linear layers in 8 bits.
        args, kwargs: as `PreTrainedModel.from_pretrained` takes them; a single file takes none.

    Raises:
        FileNotFoundError: nothing there. ValueError: see the module's text.
    """
    dtype = kwargs.pop("torch_dtype", None) if dtype is None else dtype  # its name in older code
    if dtype == INT8:
        dtype = encoder_dtype(resolve_device(None), name_or_path)
        return quantize(load_encoder(cls, load_folder, name_or_path, *args, dtype=dtype, **kwargs))
    if dtype != "auto":
        dtype = torch.float32 if dtype is None else resolve_dtype(dtype)
    if name_or_path == mini.NAME:
        return mini.load_mini_encoder(torch.float32 if dtype == "auto" else dtype)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        if kwargs or args:
            raise ValueError(f"{path}: a single file takes no option {', '.join(sorted(kwargs))}; dtype only")
        return _load_single_file(cls, path, dtype)
    _check_source(path, str(name_or_path))
    config = read_config(name_or_path, **_hub_options(kwargs))
    if path.is_dir():
        _refuse_foreign_folder(path / kwargs.get("subfolder", ""))
    files = weight_files(name_or_path, variant=kwargs.get("variant"), **_hub_options(kwargs))
    kwargs.pop("force_download", None)  # it has been
    seed = isinstance(config, Wav2Vec2BertConfig)
    ours = seed_config(name_or_path, config) if seed else kwargs.get("config", config)
    check_files(_empty(cls, ours), files, str(name_or_path), named=seed_name if seed else str)
    if not args and kwargs.keys() <= {*_HUB_OPTIONS, "variant"}:
        weights = _read(cls, files, dtype, str(name_or_path))
        return _filled(cls, ours, seed_weights(weights) if seed else weights, str(name_or_path))
    if seed:
        encoder = _load_seed(cls, name_or_path, ours, dtype=dtype, **kwargs)
    else:
        encoder = load_strictly(load_folder, name_or_path, *args, dtype=dtype, **{"config": config, **kwargs})
    check_finite(encoder, str(name_or_path))
    return _aligned(encoder)


def quantize(encoder: AudioEncoder) -> AudioEncoder:
    """Round the weights of the backbone's linear layers to 8 bits, each row by its own scale; the encoder, changed.

    They are multiplied in the encoder's dtype. Such an encoder is for use, not for training or saving.

    Raises:
        ImportError: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ImportError("dtype 'int8' needs torchao: pip install 'audio2img[int8]'") from error
    quantize_(encoder.backbone.encoder, Int8WeightOnlyConfig())
    return encoder


def read_config(name_or_path: str | os.PathLike[str], **hub_options: Any) -> AudioEncoderConfig | Wav2Vec2BertConfig:
    """The config of a checkpoint of any form, without its weights; a `Wav2Vec2BertConfig` for a seed folder.

    Raises:
        FileNotFoundError: nothing there. ValueError: not an audio encoder's checkpoint.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return _parse_config(_read_metadata(path), str(path))
    _check_source(path, str(name_or_path))
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(f"{path}: no encoder: this folder holds no config.json")
    try:
        data, _ = PretrainedConfig.get_config_dict(path if path.is_dir() else str(name_or_path), **hub_options)
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name_or_path}: its config.json cannot be read: {first_line(error)}") from error
    return _parse_config(data, str(name_or_path))


def save_single_file(encoder: AudioEncoder, path: str | os.PathLike[str]) -> None:
    """Write the encoder as one `.safetensors` file that holds its config too.

    The file appears under its name only when it is whole.

    Raises:
        ValueError: the name does not end in `.safetensors`. OSError: it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a single-file checkpoint must be named *.safetensors")
    config = encoder.config.to_dict()
    config.pop("_name_or_path", None)
    # As save_pretrained notes them, whatever the encoder was saved as before.
    config |= {"architectures": [type(encoder).__name__], "dtype": str(encoder.dtype).removeprefix("torch.")}
    metadata = {"format": "pt", METADATA_KEY: json.dumps(config, sort_keys=True, default=str)}
    weights = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    with whole_file(path) as partial:
        save_file(weights, partial, metadata=metadata)


def save_folder(encoder: AudioEncoder, path: str | os.PathLike[str]) -> None:
    """Write the encoder as a folder of `config.json` and `model.safetensors`, which appears only when it is whole.

    Raises:
        FileExistsError: the folder exists and is not empty. OSError: it cannot be written.
    """
    with whole_folder(path) as partial:
        encoder.save_pretrained(partial)


def save(encoder: AudioEncoder, path: str | os.PathLike[str]) -> None:
    """`save_single_file` where the name ends in `.safetensors`, else `save_folder`."""
    (save_single_file if Path(path).suffix == ".safetensors" else save_folder)(encoder, path)


def _load_single_file(cls: type[AudioEncoder], path: Path, dtype: torch.dtype | str) -> AudioEncoder:
    config = _parse_config(_read_metadata(path), str(path))
    if not isinstance(config, AudioEncoderConfig):
        raise ValueError(f"{path}: a plain Wav2Vec2-BERT file needs its folder with config.json")
    check_files(_empty(cls, config), [path], str(path))
    return _filled(cls, config, _read(cls, [path], dtype, str(path)), str(path))


def _read(cls: type[AudioEncoder], files: list[Path], dtype: torch.dtype | str, source: str) -> dict[str, torch.Tensor]:
    try:
        return read_weights(files, None if dtype == "auto" else dtype, precise=cls._keep_in_fp32_modules_strict)
    except OSError as error:
        raise ValueError(f"{source}: the weights cannot be loaded: {first_line(error)}") from error


def _filled(
    cls: type[AudioEncoder], config: AudioEncoderConfig, weights: dict[str, torch.Tensor], source: str
) -> AudioEncoder:
    """An encoder, built without memory or random numbers for its weights, with these in their places."""
    with init_empty_weights(include_buffers=False):
        encoder = cls(config)
    encoder.load_state_dict(weights, strict=True, assign=True)
    check_finite(encoder, source)
    encoder.config.name_or_path = source
    return encoder.eval()


def _empty(cls: type[AudioEncoder], config: AudioEncoderConfig) -> AudioEncoder:
    """An encoder that takes no memory, to compare its weights' names and shapes with files."""
    with init_empty_weights(include_buffers=True):
        return cls(config)


def _load_seed(
    cls: type[AudioEncoder], name_or_path: str | os.PathLike[str], config: AudioEncoderConfig, **kwargs: Any
) -> AudioEncoder:
    """A plain `Wav2Vec2BertModel` with adapter becomes an encoder with a conv head, weight by weight."""
    from transformers import Wav2Vec2BertModel

    model = load_strictly(Wav2Vec2BertModel.from_pretrained, name_or_path, **kwargs)
    with init_empty_weights(include_buffers=False):
        encoder = cls(config)
    encoder.load_state_dict(seed_weights(model.state_dict()), strict=True, assign=True)
    return encoder.eval()


def load_strictly(
    from_pretrained: Callable[..., Any], name_or_path: Any, *args: Any, allow_unexpected: bool = False, **kwargs: Any
) -> Any:
    """The model that transformers' `from_pretrained` loads, in evaluation mode; what it only warns about is refused.

    Raises:
        ValueError: missing, wrongly shaped or (unless allowed) unexpected weights, or a broken file.
    """
    kwargs = {**kwargs, "use_safetensors": True, "output_loading_info": True}
    # Wrong shapes too come back as information then, by name, instead of as a table in the log.
    kwargs["ignore_mismatched_sizes"] = True
    try:
        model, info = from_pretrained(name_or_path, *args, **kwargs)
    except SafetensorError as error:
        raise ValueError(f"{name_or_path}: not a whole safetensors file: {first_line(error)}") from error
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{name_or_path}: the weights cannot be loaded: {first_line(error)}") from error
    kinds = ("missing_keys", "mismatched_keys", *(() if allow_unexpected else ("unexpected_keys",)))
    raise_on_names(str(name_or_path), {kind: sorted(map(_shapes, info.get(kind) or ())) for kind in kinds})
    return model.eval()


def _aligned(encoder: AudioEncoder) -> AudioEncoder:
    """The encoder with every weight on a 64-byte boundary.

    In a mapped file they lie anywhere, and matrix products may then sum in another order: the same sound would give
    tokens that differ in the last bit from one load to the next.
    """
    for tensor in (*encoder.parameters(), *encoder.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()
    return encoder


def _shapes(entry: Any) -> str:
    """A name, or of transformers' (name, shape in the file, shape in the model) a phrase."""
    if isinstance(entry, str):
        return entry
    name, found, expected = entry
    return f"{name} {list(found)} instead of {list(expected)}"


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


def _check_source(path: Path, name: str) -> None:
    """A name that looks like a path must exist; anything else may be a hub id."""
    if path.is_dir():
        return
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1 or "\\" in name
    if looks_local or path.suffix in (".safetensors", *PICKLE_SUFFIXES):
        raise FileNotFoundError(f"{name}: no such encoder folder or file")


def _refuse_foreign_folder(path: Path) -> None:
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


def _hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
