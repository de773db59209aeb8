"""Load and save the checkpoint forms of the audio encoder.

- A folder (or hub id) with `config.json` and `model.safetensors`, sharded or not: what `save_pretrained` writes.
- ONE `.safetensors` file with the config as JSON in its metadata: what goes into ComfyUI's `models/audio_encoders`.
- A folder (or hub id) of a plain `Wav2Vec2BertModel` with its adapter, as the project kardSIM/audio2img published
  them (`youzarsif/wav2vec2bert_2_diffusion`).

Only safetensors is read, and every weight must be there, no more and no less.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import save_file
from transformers import Wav2Vec2BertConfig

from ..devices import INT8, encoder_dtype, resolve_device, resolve_dtype
from ..storage.files import whole_file, whole_folder
from .config import AudioEncoderConfig
from .kardsim import kardsim_config, kardsim_name, kardsim_weights
from .source import (
    METADATA_KEY,
    PICKLE_SUFFIXES,
    check_exists,
    located,
    read_config,
    refuse_foreign_folder,
)
from .weights import check_files, check_finite, load_strictly, read_weights, weight_files

if TYPE_CHECKING:
    from .model import AudioEncoder

    Encoder = TypeVar("Encoder", bound=AudioEncoder)

__all__ = [
    "METADATA_KEY",
    "PICKLE_SUFFIXES",
    "empty_encoder",
    "load_encoder",
    "load_strictly",
    "quantize",
    "read_config",
    "save",
    "save_folder",
    "save_single_file",
]

_BOUNDARY = 64  # bytes, as torch aligns what it allocates
_LARGE = ("backbone.", "head.adapter.")
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def load_encoder(
    cls: type[Encoder],
    load_folder: Callable[..., Any],
    name_or_path: str | os.PathLike[str],
    *args: Any,
    dtype: torch.dtype | str | None = None,
    **kwargs: Any,
) -> Encoder:
    """Load any checkpoint form, in evaluation mode.

    Args:
        cls: `AudioEncoder` or a subclass of it.
        load_folder: `PreTrainedModel.from_pretrained` of that class.
        name_or_path: "mini", folder, `.safetensors` file, or hub id.
        dtype: Weight dtype; None is float32, "auto" the stored one, and "int8" keeps the weights of the backbone's
            linear layers in 8 bits.
        args, kwargs: As `PreTrainedModel.from_pretrained` takes them; a single file takes none.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a pickle, missing or unexpected weights, wrong config.
    """
    dtype = kwargs.pop("torch_dtype", None) if dtype is None else dtype  # its name in older code
    if dtype == INT8:
        dtype = encoder_dtype(resolve_device(None), name_or_path)
        return quantize(load_encoder(cls, load_folder, name_or_path, *args, dtype=dtype, **kwargs))
    if dtype != "auto":
        dtype = torch.float32 if dtype is None else resolve_dtype(dtype)
    wanted = None if isinstance(dtype, str) else dtype
    precise = cls._keep_in_fp32_modules_strict or ()
    name_or_path = located(name_or_path)
    path, source = Path(name_or_path).expanduser(), str(name_or_path)
    if path.is_file():
        if kwargs or args:
            raise ValueError(f"{path}: a single file takes no option {', '.join(sorted(kwargs))}; dtype only")
        config = read_config(path)
        if not isinstance(config, AudioEncoderConfig):
            raise ValueError(f"{path}: a plain Wav2Vec2-BERT file needs its folder with config.json")
        encoder = empty_encoder(config, cls)
        check_files(encoder, [path], source)
        return _filled(encoder, read_weights([path], source, wanted, precise=precise), source)
    check_exists(path, source)
    hub_options = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
    config = read_config(name_or_path, **hub_options)
    if path.is_dir():
        refuse_foreign_folder(path / kwargs.get("subfolder", ""))
    files = weight_files(name_or_path, variant=kwargs.get("variant"), **hub_options)
    kwargs.pop("force_download", None)  # it has been
    kardsim = isinstance(config, Wav2Vec2BertConfig)
    ours = kardsim_config(name_or_path, config) if kardsim else kwargs.get("config", config)
    encoder = empty_encoder(ours, cls)
    check_files(encoder, files, source, named=kardsim_name if kardsim else str)
    if not args and kwargs.keys() <= {*_HUB_OPTIONS, "variant"}:
        weights = read_weights(files, source, wanted, precise=precise)
        return _filled(encoder, kardsim_weights(weights) if kardsim else weights, source)
    # What else was asked for, such as device_map, is transformers' to do.
    if kardsim:
        from transformers import Wav2Vec2BertModel

        model = load_strictly(Wav2Vec2BertModel.from_pretrained, name_or_path, *args, dtype=dtype, **kwargs)
        encoder = _filled(encoder, kardsim_weights(model.state_dict()), source)
    else:
        encoder = load_strictly(load_folder, name_or_path, *args, dtype=dtype, **{"config": config, **kwargs})
    for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        check_finite(name, tensor, source)
    return encoder


def empty_encoder(config: AudioEncoderConfig, cls: type[Encoder]) -> Encoder:
    """Build an encoder that takes no memory and no random numbers: its weights are on the meta device.

    `load_state_dict(weights, strict=True, assign=True)` then puts weights in their places.
    """
    with torch.device("meta"):
        encoder = cls(config)
    positions = encoder.backbone.encoder.embed_positions
    if positions is not None:  # of the kinds "relative" and "rotary": tables, which no checkpoint holds
        encoder.backbone.encoder.embed_positions = type(positions)(config.backbone)
    return encoder


def _filled(encoder: Encoder, weights: dict[str, torch.Tensor], source: str) -> Encoder:
    """Put weights in their places.

    In a mapped file they lie at any multiple of 8 bytes. Products with a single row, such as the pooled embedding's,
    then sum in another order, and the forms of one checkpoint would differ in the last bit. So the small weights, which
    those products take, move to a boundary.
    """
    for name, tensor in weights.items():
        if not name.startswith(_LARGE) and tensor.data_ptr() % _BOUNDARY:
            weights[name] = tensor.clone()
    encoder.load_state_dict(weights, strict=True, assign=True)
    encoder.config.name_or_path = source
    return encoder.eval()


def quantize(encoder: Encoder) -> Encoder:
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
