"""The weights of a checkpoint: find them, compare their headers with the config before memory is taken, read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..checks import first_line, one_line

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_WORDS = {"missing_keys": "missing", "unexpected_keys": "unexpected", "mismatched_keys": "wrongly shaped"}
_INDEX_BYTES = 64 * 2**20
_MAPPED_BYTES = 2**28  # converted before a file is mapped anew
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def weight_files(
    name_or_path: str | os.PathLike[str], *, variant: str | None = None, subfolder: str = "", **hub_options: Any
) -> list[Path]:
    """The safetensors files of a folder or hub id that transformers would load; those of the hub are downloaded.

    Args:
        name_or_path: folder or hub id.
        variant, subfolder: as `from_pretrained` takes them.
        hub_options: `cache_dir`, `force_download`, `local_files_only`, `token`, `revision`.

    Raises:
        ValueError: there are none, or their index is broken or names files elsewhere.
    """
    folder = Path(name_or_path).expanduser()
    where = str(name_or_path)
    whole, index = (_named(name, variant) for name in (_WHOLE, _INDEX))

    def find(name: str) -> Path | None:
        if folder.is_dir():
            file = folder / subfolder / name
            return file if file.is_file() else None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            return Path(hf_hub_download(where, name, subfolder=subfolder or None, **hub_options))
        except EntryNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ValueError(f"{where}: {name} cannot be had: {first_line(error)}") from error

    if (file := find(whole)) is not None:
        return [file]
    if (file := find(index)) is None:
        raise ValueError(f"{where}: holds no {whole}")
    files = {name: find(name) for name in _shards(file, where)}
    absent = sorted(name for name, file in files.items() if file is None)
    if absent:
        raise ValueError(f"{where}: {index} names {len(absent)} file(s) that are not there ({', '.join(absent[:3])})")
    return [file for file in files.values() if file is not None]


def check_files(
    model: torch.nn.Module, files: Iterable[Path], source: str, *, named: Callable[[str], str | None] = str
) -> None:
    """Refuse files that do not hold what a model needs, by their headers.

    Args:
        model: built without memory, on the meta device.
        files: safetensors.
        source: what messages call it.
        named: the name in the files of a weight of the model; None = it is not in them.

    Raises:
        ValueError: a file is broken, or weights are missing, too many, or of other shapes.
    """
    shapes: dict[str, list[int]] = {}
    for file in files:
        shapes |= read_shapes(file)
    expected = {named(name): list(tensor.shape) for name, tensor in model.state_dict().items()}
    check_shapes({name: shape for name, shape in expected.items() if name is not None}, shapes, source)


def read_shapes(file: Path) -> dict[str, list[int]]:
    """The names and shapes in a safetensors file, from its header.

    Raises:
        ValueError: it is none, or not whole.
    """
    try:
        with safe_open(file, "pt") as opened:
            return {name: list(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: not a whole safetensors file: {first_line(error)}") from error


def check_shapes(expected: Mapping[str, list[int]], found: Mapping[str, list[int]], source: str) -> None:
    """Refuse weights that are not just those that are expected.

    Raises:
        ValueError: it names them.
    """
    wrong = [name for name in expected if name in found and list(found[name]) != list(expected[name])]
    raise_on_names(
        source,
        {
            "missing_keys": sorted(expected.keys() - found.keys()),
            "unexpected_keys": sorted(found.keys() - expected.keys()),
            "mismatched_keys": [f"{name} {list(found[name])} instead of {list(expected[name])}" for name in wrong],
        },
    )


def raise_on_names(source: str, problems: dict[str, list[str]]) -> None:
    """ValueError that tells of missing, unexpected and wrongly shaped weights, where there are any."""
    found = [
        f"{len(names)} {_WORDS[kind]} ({', '.join(one_line(name)[:120] for name in names[:3])}"
        f"{', ...' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if found:
        raise ValueError(f"{source}: the weights do not fit the config: {'; '.join(found)}")


@torch.inference_mode(False)  # ComfyUI's nodes run in inference mode, but these tensors become parameters
def read_weights(
    files: Iterable[Path], source: str, dtype: torch.dtype | None = None, *, precise: Collection[str] = ()
) -> dict[str, Tensor]:
    """Read all tensors of safetensors files on the CPU, and look at each for NaN.

    Tensors that keep their dtype stay mapped. A mapping begins at a page, so each weight is aligned as it was the last
    time, and the same audio gives the same bits from load to load.

    Args:
        files: safetensors files.
        source: The checkpoint's name in messages.
        dtype: What floating-point tensors are converted to, one after the other; None keeps the stored dtype.
        precise: Names of tensors that are converted to float32 instead.

    Raises:
        ValueError: a file is broken, or a tensor is of a dtype that no encoder has, or holds NaN or infinite values.
    """
    weights: dict[str, Tensor] = {}
    for file in files:
        names = list(read_shapes(file))
        while names:
            _read_some(file, names, weights, source, dtype, precise)
    return weights


def _read_some(
    file: Path,
    names: list[str],
    weights: dict[str, Tensor],
    source: str,
    dtype: torch.dtype | None,
    precise: Collection[str],
) -> None:
    """Move tensors from `names` to `weights` until `_MAPPED_BYTES` have been converted.

    The mapping then ends: what has been read of it counts as memory until then, beside the converted copy.
    """
    converted = 0
    try:
        with safe_open(file, "pt") as opened:
            while names and converted < _MAPPED_BYTES:
                name = names.pop()
                tensor = stored = opened.get_tensor(name)
                if stored.dtype not in _DTYPES:
                    allowed = ", ".join(map(str, _DTYPES))
                    raise ValueError(f"{file}: {name} is of dtype {stored.dtype}; allowed are {allowed}")
                if dtype is not None and stored.is_floating_point():
                    tensor = stored.to(torch.float32 if name in precise else dtype)
                if tensor.data_ptr() % tensor.itemsize:  # safetensors allows it, processors need not
                    tensor = tensor.clone()
                check_finite(name, tensor, source)
                weights[name] = tensor
                converted += 0 if tensor is stored else stored.nbytes
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{source}: the weights cannot be loaded: {first_line(error)}") from error


def check_finite(name: str, tensor: Tensor, source: str) -> None:
    """Refuse a weight that holds NaN or infinite values.

    Raises:
        ValueError: the message names it.
    """
    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
        return
    # Narrower floats, such as float8, can only be copied.
    extremes = (tensor.detach() if tensor.itemsize > 1 else tensor.detach().float()).aminmax()
    if not (extremes.min.isfinite() and extremes.max.isfinite()):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{source}: the weight {name} holds NaN or infinite values, in {kind}")


def load_strictly(
    from_pretrained: Callable[..., Any], name_or_path: Any, *args: Any, allow_unexpected: bool = False, **kwargs: Any
) -> Any:
    """Load a model with transformers' `from_pretrained`, in evaluation mode; refuse what it only warns about.

    Args:
        from_pretrained: That of a model's class.
        name_or_path: Folder or hub id.
        args, kwargs: As `from_pretrained` takes them.
        allow_unexpected: Whether the files may hold weights that the model lacks.

    Raises:
        ValueError: missing, wrongly shaped or (unless allowed) unexpected weights, or a broken file.
    """
    kwargs = {**kwargs, "use_safetensors": True, "output_loading_info": True}
    # With this, wrong shapes come back as information too, by name, instead of as a table in the log.
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


def _shapes(entry: Any) -> str:
    """A name, or of transformers' (name, shape in the file, shape in the model) a phrase."""
    if isinstance(entry, str):
        return entry
    name, found, expected = entry
    return f"{name} {list(found)} instead of {list(expected)}"


def _shards(index: Path, where: str) -> list[str]:
    """The files that an index names: plain names beside it, and no others."""
    try:
        if index.stat().st_size > _INDEX_BYTES:
            raise ValueError("too large")
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where}: its {index.name} cannot be read: {first_line(error)}") from error
    odd = [n for n in names if n != os.path.basename(n) or "\\" in n or "\0" in n or not n.endswith(".safetensors")]
    if odd or not names:
        named = repr(odd[0][:60]) if odd else "nothing"
        raise ValueError(f"{where}: its {index.name} names {named}; allowed: .safetensors files beside it")
    return names


def _named(name: str, variant: str | None) -> str:
    """The name of a variant of a file, as transformers makes it: model.fp16.safetensors."""
    stem, suffix = name.rsplit(".", 1)
    return f"{stem}.{variant}.{suffix}" if variant else name
