"""An on-disk cache of the teacher's embeddings of captions."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from audio2img_core.checks import first_line, one_line, positive_int
from audio2img_core.storage.files import check_writable, whole_file
from audio2img_core.targets import PROMPT_TOKENS, Target

from .text_encoder import OnStep, Teacher, TeacherOutput

logger = logging.getLogger(__name__)

METADATA_KEY = "audio2img_captions"
_SHARD_BYTES = 64 * 2**20  # of one shard: a run that is killed loses the encoding of that many at most
_FLOAT16_MAX = torch.finfo(torch.float16).max


class CaptionCache:
    """The teacher's embeddings of captions on disk, each distinct caption once, memory-mapped when read.

    They lie in `folder/<fingerprint of the teacher>` as safetensors shards of `tokens` [n, 77, D] float16, `pooled`
    [n, P] float16 and `mask` [n, 77] uint8; a shard's captions are JSON in its metadata, so that a shard is there
    with its captions or not at all. Rows are numbered in the order of the shards and never change. Several processes
    may read while one adds: `refresh` takes up what others have added. A pickled cache travels without its teacher.

    Args:
        folder: the cache's; several teachers may share it.
        teacher: whose embeddings they are; its fingerprint is enough for reading.
        shard_rows: captions of one shard; None = about 64 MiB.

    Raises:
        ValueError: a shard is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], teacher: Teacher | str, *, shard_rows: int | None = None):
        self.teacher = None if isinstance(teacher, str) else teacher
        self.fingerprint = teacher if isinstance(teacher, str) else teacher.fingerprint
        self.folder = Path(folder) / self.fingerprint
        self.shard_rows = None if shard_rows is None else positive_int(shard_rows, "shard_rows")
        self._captions: list[str] = []
        self._rows: dict[str, int] = {}
        self._files: list[Path] = []
        self._firsts = [0]  # row of each shard's first caption, and the number of rows
        self._arrays: dict[int, dict[str, np.ndarray]] = {}
        self.refresh()

    def __len__(self) -> int:
        return self._firsts[-1]

    def __contains__(self, caption: object) -> bool:
        return caption in self._rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "teacher": None, "_arrays": {}}

    @property
    def captions(self) -> list[str]:
        """The captions in the order of their rows."""
        return list(self._captions)

    def row(self, caption: str) -> int:
        """The caption's row.

        Raises:
            KeyError: it is not in the cache.
        """
        return self._rows[caption]

    def add(self, captions: Iterable[str], *, batch_size: int = 64, on_step: OnStep | None = None) -> int:
        """Encode the captions that are missing; after a kill, resume behind the last complete shard.

        Args:
            captions: any number, repeated ones too.
            batch_size: captions encoded at once.
            on_step: called as on_step(captions done, captions missing at the start) after each batch.

        Returns:
            The number of captions that were encoded.

        Raises:
            ValueError: no teacher, no space for all of them (before the first is encoded), a folder that cannot be
                written, or an embedding that float16 cannot hold. Whole shards stay, nothing half is left.
        """
        captions = list(dict.fromkeys(captions))
        if all(caption in self for caption in captions):
            return 0
        if self.teacher is None:
            raise ValueError("this cache has no teacher: it can be read, not added to")
        check_writable(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with _one_writer(self.folder):
            self.refresh()
            for partial in self.folder.glob(".*.partial.safetensors"):  # of a writer that was killed
                partial.unlink(missing_ok=True)
            missing = [caption for caption in captions if caption not in self]
            row_bytes = _row_bytes(self.teacher.target)
            _check_space(self.folder, len(missing) * row_bytes, len(missing))
            size = self.shard_rows or max(1, _SHARD_BYTES // row_bytes)
            for first in range(0, len(missing), size):
                chunk = missing[first : first + size]
                step = None if on_step is None else lambda done, _, first=first: on_step(first + done, len(missing))
                self._write(chunk, self.teacher.encode(chunk, batch_size=batch_size, on_step=step))
                self.refresh()
        return len(missing)

    def refresh(self) -> None:
        """Take up the shards that were written since.

        Raises:
            ValueError: a shard is damaged.
        """
        for file in sorted(self.folder.glob("captions-*.safetensors"))[len(self._files) :]:
            try:
                with safe_open(file, "np") as opened:
                    captions = json.loads((opened.metadata() or {})[METADATA_KEY])
                    rows = opened.get_slice("tokens").get_shape()[0]
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                reason = f"damaged ({first_line(error)})"
                raise ValueError(f"{file}: {reason}; remove it, and its captions are encoded again") from error
            first = len(self)
            self._captions += captions
            for i, caption in enumerate(captions):
                self._rows.setdefault(caption, first + i)
            self._files.append(file)
            self._firsts.append(first + rows)

    def tokens(self, rows: Sequence[int] | Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """The tokens of these rows [n, 77, D], on the CPU; they are stored in float16.

        Raises:
            IndexError: no such row.
        """
        return self._take("tokens", rows).to(dtype)

    def pooled(self, rows: Sequence[int] | Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """The pooled embeddings of these rows [n, P], None where the target has none; as `tokens`."""
        return self._take("pooled", rows).to(dtype) if "pooled" in self._shard(0) else None

    def mask(self, rows: Sequence[int] | Tensor) -> Tensor:
        """Which tokens of these rows are no padding [n, 77] bool; as `tokens`."""
        return self._take("mask", rows).bool()

    def token_norms(self, rows: Sequence[int] | None = None) -> Tensor:
        """Mean norm of the tokens at each position over these captions (None = all), [77] float32."""
        return self._mean("tokens", rows, norms=True)

    def mean_tokens(self, rows: Sequence[int] | None = None) -> Tensor:
        """Mean token of each position over these captions (None = all), [77, D] float32."""
        return self._mean("tokens", rows)

    def mean_pooled(self, rows: Sequence[int] | None = None) -> Tensor | None:
        """Mean pooled embedding over these captions (None = all), [P] float32; None where the target has none."""
        return self._mean("pooled", rows) if "pooled" in self._shard(0) else None

    def _mean(self, name: str, rows: Sequence[int] | None, *, norms: bool = False) -> Tensor:
        rows = range(len(self)) if rows is None else rows
        if len(rows) == 0:
            raise ValueError(f"{self.folder}: the cache of captions is empty")
        total = torch.zeros((), dtype=torch.float64)
        for first in range(0, len(rows), 256):
            part = self._take(name, rows[first : first + 256]).float()
            total = total + (part.norm(dim=-1) if norms else part).double().sum(0)
        return (total / len(rows)).float()

    def _take(self, name: str, rows: Sequence[int] | Tensor) -> Tensor:
        index = np.asarray(rows.cpu() if isinstance(rows, Tensor) else list(rows), dtype=np.int64).reshape(-1)
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"rows {index.min()} to {index.max()} are not all in a cache of {len(self)} captions")
        shards = np.searchsorted(self._firsts, index, side="right") - 1
        like = self._shard(0)[name]
        taken = np.empty((len(index), *like.shape[1:]), like.dtype)
        for shard in np.unique(shards):
            here = shards == shard
            taken[here] = self._shard(int(shard))[name][index[here] - self._firsts[shard]]
        return torch.from_numpy(taken)

    def _shard(self, number: int) -> dict[str, np.ndarray]:
        """The shard's tensors, memory-mapped."""
        if number not in self._arrays:
            if number >= len(self._files):
                raise ValueError(f"{self.folder}: the cache of captions is empty")
            self._arrays[number] = _map_tensors(self._files[number])
        return self._arrays[number]

    def _write(self, captions: list[str], output: TeacherOutput) -> None:
        tensors = {"tokens": output.tokens, "pooled": output.pooled}
        for name, tensor in tensors.items():
            if tensor is not None:
                bad = ~(tensor.abs().flatten(1).amax(1) <= _FLOAT16_MAX)
                if bad.any():
                    caption = captions[int(bad.nonzero()[0])]
                    raise ValueError(
                        f"the teacher's {name} of {bad.sum()} captions are not finite in float16 (largest "
                        f"{_FLOAT16_MAX:.0f}), such as of {caption!r}: is this teacher broken?"
                    )
        halves = {name: t.half().cpu().contiguous() for name, t in tensors.items() if t is not None}
        halves["mask"] = output.mask.to("cpu", torch.uint8).contiguous()
        try:
            with whole_file(self.folder / f"captions-{len(self._files):06d}.safetensors") as partial:
                save_file(halves, partial, metadata={METADATA_KEY: json.dumps(captions)})
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{self.folder}: the cache cannot be written ({one_line(first_line(error))})") from error


def _map_tensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as read-only memory maps: 8 bytes of header length, JSON header, data."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    kinds = {"F16": np.float16, "U8": np.uint8}
    return {
        name: np.memmap(file, kinds[entry["dtype"]], "r", 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _row_bytes(target: Target) -> int:
    return PROMPT_TOKENS * (2 * target.width + 1) + 2 * (target.pooled_width or 0)


def _check_space(folder: Path, needed: int, captions: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder}: no space for the cache: {captions} captions need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB "
            "are free"
        )


@contextlib.contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process writes; the lock ends with its process. Platforms without locks have none."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: another process writes to the cache: waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            logger.debug("%s: cannot be locked", folder)
        yield
