"""Prepared clips as tar shards (the WebDataset layout) that any number of machines write."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from audio2img_core.audio.clips import AudioClip
from audio2img_core.batch.jobs import Job, Part, Report
from audio2img_core.storage.paths import read, write

from .clips import Source
from .config import DataConfig
from .flac import flac_bytes
from .reading import try_clip
from .shards import captioned

if TYPE_CHECKING:
    from audio2img_core.storage.shards import Sample

_HEADER = ".part.json"
"""First member of a shard, hidden from those who read clips: what the shard says of itself."""
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

    Items are clips, or indices of `source`.
    """

    output: str
    settings: Mapping[str, Any]
    cut: DataConfig
    size: int = 1000
    source: Source | None = None

    suffix: ClassVar[str] = ".tar"
    entries: ClassVar[str] = "clips"
    heavy: ClassVar[bool] = False

    def key(self, item: AudioClip | int) -> str:
        """The clip's key, or its index as text."""
        return str(item) if isinstance(item, int) else item.key

    def item(self, sample: Sample, shard: str) -> AudioClip:
        """The sample's clip."""
        return captioned(sample, shard)

    def load(self, items: Sequence[AudioClip | int]) -> list[Loaded]:
        """Decode and cut clips."""
        return [self._loaded(item) for item in items]

    def worker(self) -> Callable[[Part], Report]:
        """Nothing is needed to write."""
        return self._write

    def header(self, file: str) -> dict[str, Any]:
        """The first member of a shard, of which no more is read."""
        try:
            member = tarfile.TarInfo.frombuf(read(file, 0, _BLOCK), "utf-8", "strict")
            if member.name != _HEADER:
                raise ValueError(member.name)
            facts = json.loads(read(file, _BLOCK, _BLOCK + member.size))
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(f"{file}: is no shard of prepared clips; choose another output") from error
        return self.checked(facts, file)

    def line(self, key: str, entry: Sequence[str]) -> dict[str, Any]:
        """The clip and its captions."""
        return {"clip": key, "captions": entry}

    def _loaded(self, item: AudioClip | int) -> Loaded:
        clip = self.source[item] if isinstance(item, int) else item
        waveform, problem = try_clip(clip, self.cut)
        flac = b"" if waveform is None else flac_bytes(waveform)
        return Loaded(self.key(item), clip.captions, flac, problem)

    def _write(self, part: Part) -> Report:
        good = [item for item in part.loaded if not item.problem]
        problems = [*part.problems, *((item.key, item.problem) for item in part.loaded if item.problem)]
        if good or part.origin:
            entries = {item.key: item.captions for item in good}
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                _add(tar, _HEADER, json.dumps(self.facts(part, entries, problems)).encode())
                for number, item in enumerate(good):
                    _add(tar, f"{number:06}.flac", item.flac)
                    said = {"caption": item.captions, "key": item.key}
                    _add(tar, f"{number:06}.json", json.dumps(said, ensure_ascii=False).encode())
            write(self.file(part), file.getvalue())
        return Report(len(good), tuple(problems))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of no time and nobody: the same clips give the same file
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
