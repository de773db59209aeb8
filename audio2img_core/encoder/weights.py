"""The weights of a checkpoint: found, compared with its config by their headers before memory is taken, and read."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..checks import first_line, one_line

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_WORDS = {"missing_keys": "missing", "unexpected_keys": "unexpected", "mismatched_keys": "wrongly shaped"}
_INDEX_BYTES = 64 * 2**20
_PIECE = 2**20  # numbers that are turned into another dtype at once
_READERS = 4  # threads: a copy out of the system's cache keeps one busy
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
        weights |= _read_file(path, dtype, precise)
    return weights


@torch.inference_mode(False)  # ComfyUI has it on, of which the threads would not know
def _read_file(path: Path, dtype: torch.dtype | None, precise: Collection[str]) -> dict[str, Tensor]:
    with safe_open(path, "pt"):  # checks the header against the file
        pass
    size = int.from_bytes(_read(path, 0, torch.empty(8, dtype=torch.uint8)).numpy().tobytes(), "little")
    header = json.loads(_read(path, 8, torch.empty(size, dtype=torch.uint8)).numpy().tobytes())
    header.pop("__metadata__", None)
    weights: dict[str, Tensor] = {}
    for name, entry in header.items():
        stored = _DTYPES.get(entry["dtype"])
        if stored is None:
            raise ValueError(f"{path}: {name} is of dtype {entry['dtype']}; allowed are {', '.join(_DTYPES)}")
        wanted = torch.float32 if dtype is not None and name in precise else dtype
        kept = stored if wanted is None or not stored.is_floating_point else wanted
        weights[name] = torch.empty(entry["shape"], dtype=kept)
    own = threading.local()

    def fill(name: str) -> None:
        position = 8 + size + header[name]["data_offsets"][0]
        tensor, stored = weights[name].flatten(), _DTYPES[header[name]["dtype"]]
        if tensor.dtype == stored:
            _read(path, position, tensor.view(torch.uint8))
            return
        if not hasattr(own, "scratch"):
            own.scratch = torch.empty(_PIECE * torch.float64.itemsize, dtype=torch.uint8)
        for piece in tensor.split(_PIECE):
            count = len(piece) * stored.itemsize
            piece.copy_(_read(path, position, own.scratch[:count]).view(stored))
            position += count

    with ThreadPoolExecutor(_READERS) as pool:
        for _ in pool.map(fill, header):
            pass
    return weights


def check_finite(model: torch.nn.Module, source: str) -> None:
    """Refuse weights that are NaN or infinite.

    One pass that takes no memory: a sum is finite where all its terms are, but for sums beyond float32, which are
    looked at again.

    Raises:
        ValueError: it names the first of them.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta or not tensor.is_floating_point():
            continue
        # Narrower floats, such as float8, can only be copied.
        tensor = tensor.detach() if tensor.dtype.itemsize > 1 else tensor.detach().float()
        # Of the half floats only float16 needs a wider sum, which takes ten times as long.
        wider = torch.float32 if tensor.dtype == torch.float16 else None
        if not tensor.sum(dtype=wider).isfinite() and not tensor.isfinite().all():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{source}: the weight {name} holds NaN or infinite values, in {kind}")


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


def _read(path: Path, position: int, target: Tensor) -> Tensor:
    """Fill `target`, uint8 [N], with the bytes of a file from `position` on; returns it."""
    view = memoryview(target.numpy())
    with open(path, "rb", buffering=0) as file:
        file.seek(position)
        while len(view):
            count = file.readinto(view)  # the system gives 2 GB at once at most
            if not count:
                raise OSError(f"{path}: ends early")
            view = view[count:]
    return target
