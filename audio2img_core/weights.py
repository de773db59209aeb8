"""Weights out of safetensors files, each read into memory of its own."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint's folder: those that an index names, `model.safetensors`, or all.

    Raises:
        ValueError: the index is broken or names a file elsewhere. FileNotFoundError: a file that it names is missing.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        return [single]
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / name for name in names if Path(name).name == name]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{index}: not an index of safetensors files") from error
    if len(files) < len(names):
        raise ValueError(f"{index}: names a file outside its folder")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: missing, though {index.name} names it")
    return files


def read_weights(
    files: Iterable[Path], dtype: torch.dtype | None = None, *, precise: Collection[str] = ()
) -> dict[str, Tensor]:
    """All tensors of safetensors files on the CPU.

    Read, not mapped: what is mapped counts as memory until the system wants it back, beside its copy in another dtype;
    and it lies on any boundary, so that matrix products may sum in another order from one load to the next.

    Args:
        dtype: what numbers with a fraction are turned into, one tensor after the other; None = as they are stored.
        precise: names of tensors that are turned into float32 in its place.

    Raises:
        SafetensorError: not a whole safetensors file. ValueError: a kind of number that no encoder has.
        OSError: it cannot be read.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        with safe_open(path, "pt"):  # checks the header against the file
            pass
        with open(path, "rb", buffering=0) as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(_read(file, 8, torch.empty(size, dtype=torch.uint8)).numpy().tobytes())
            header.pop("__metadata__", None)
            largest = max((end - begin for begin, end in (e["data_offsets"] for e in header.values())), default=0)
            scratch = torch.empty(largest if dtype is not None else 0, dtype=torch.uint8)
            for name, entry in header.items():
                stored = _DTYPES.get(entry["dtype"])
                if stored is None:
                    raise ValueError(f"{path}: {name} is of dtype {entry['dtype']}; allowed are {', '.join(_DTYPES)}")
                begin, end = entry["data_offsets"]
                wanted = torch.float32 if dtype is not None and name in precise else dtype
                converted = wanted not in (None, stored) and stored.is_floating_point
                target = scratch[: end - begin] if converted else torch.empty(end - begin, dtype=torch.uint8)
                tensor = _read(file, 8 + size + begin, target).view(stored).view(entry["shape"])
                weights[name] = tensor.to(wanted) if converted else tensor
    return weights


def _read(file: BinaryIO, position: int, target: Tensor) -> Tensor:
    """Fill `target`, uint8 [N], with what stands at `position`; returns it."""
    file.seek(position)
    view = memoryview(target.numpy())
    while len(view):
        count = file.readinto(view)  # the system gives 2 GB at once at most
        if not count:
            raise OSError(f"{file.name}: ends early")
        view = view[count:]
    return target
