"""Prepared clips as tar shards (the WebDataset layout) that any number of machines write."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from audio2img_core.audio.clips import AudioClip
from audio2img_core.batch.jobs import SHARD_SIZE, Job, Report, Shard
from audio2img_core.storage.paths import read, write

from .clips import Source
from .config import DataConfig
from .flac import flac_bytes
from .reading import try_clip
from .shards import captioned

if TYPE_CHECKING:
    from audio2img_core.storage.shards import Sample

_HEADER = ".shard.json"
"""First member of a shard, hidden from those who read clips: what the shard holds, and where."""
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Loaded:
    """A clip that was decoded and cut."""

    key: str
    captions: tuple[str, ...]
    flac: bytes
    problem: str


@dataclass(frozen=True)
class PrepareJob(Job):
    """Clips to shards of FLAC (16 kHz, mono, 16 bits) and JSON with `caption` and the clip's `key`.

    The header, and then the index, give each clip's place in the shard, in bytes. Items are clips, or indices of
    `source`.
    """

    output: str
    settings: Mapping[str, Any]
    cut: DataConfig
    size: int = SHARD_SIZE
    source: Source | None = None

    suffix: ClassVar[str] = ".tar"
    entries: ClassVar[str] = "clips"
    heavy: ClassVar[bool] = False

    def key(self, item: AudioClip | int) -> str:
        """The clip's key, or its row in the source."""
        return f"row {item}" if isinstance(item, int) else item.key

    def item(self, sample: Sample, tar: str) -> AudioClip:
        """The sample's clip."""
        return captioned(sample, tar)

    def load(self, items: Sequence[AudioClip | int]) -> list[Loaded]:
        """Decode and cut clips."""
        return [self._loaded(item) for item in items]

    def worker(self) -> Callable[[Shard], Report]:
        """Nothing is needed to write."""
        return self._write

    def header(self, file: str) -> dict[str, Any]:
        """The first member of a shard, of which no more is read."""
        try:
            member = tarfile.TarInfo.frombuf(read(file, 0, _BLOCK), "utf-8", "strict")
            if member.name != _HEADER:
                raise ValueError(member.name)
            facts = self.checked(json.loads(read(file, _BLOCK, _BLOCK + member.size)), file)
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(f"{file}: is no shard of prepared clips; choose another output") from error
        for entry in facts[self.entries].values():
            entry["offset"] += _BLOCK + _padded(member.size)
        return facts

    def line(self, key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The clip, its captions, and the place of its sound in the shard."""
        return {"clip": key, **entry}

    def _loaded(self, item: AudioClip | int) -> Loaded:
        if isinstance(item, int):
            assert self.source is not None
            clip = self.source[item]
        else:
            clip = item
        waveform, problem = try_clip(clip, self.cut)
        flac = b"" if waveform is None else flac_bytes(waveform)
        return Loaded(self.key(item), clip.captions, flac, problem)

    def _write(self, shard: Shard) -> Report:
        good = [item for item in shard.loaded if not item.problem]
        problems = [*shard.problems, *((item.key, item.problem) for item in shard.loaded if item.problem)]
        if good or shard.origin:
            entries = {}
            body = io.BytesIO()
            with tarfile.open(fileobj=body, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for number, item in enumerate(good):
                    place = {"offset": body.tell() + _BLOCK, "size": len(item.flac)}  # from where the header ends
                    entries[item.key] = {"captions": item.captions, **place}
                    _add(tar, f"{number:06}.flac", item.flac)
                    said = {"caption": item.captions, "key": item.key}
                    _add(tar, f"{number:06}.json", json.dumps(said, ensure_ascii=False).encode())
            header = json.dumps(self.facts(shard, entries, problems)).encode()
            member = tarfile.TarInfo(_HEADER)
            member.size = len(header)
            head = member.tobuf(tarfile.USTAR_FORMAT) + header.ljust(_padded(len(header)), b"\0")
            write(self.file(shard), head + body.getbuffer())
        return Report(len(good), tuple(problems))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of no time and nobody: the same clips give the same file
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _padded(size: int) -> int:
    """The bytes that a member of this size takes."""
    return -(-size // _BLOCK) * _BLOCK
