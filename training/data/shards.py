"""Tar shards (the WebDataset layout) as sources: streamed, or with the index of `prepare` clip by clip."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from audio2img_core.audio.clips import AudioClip, clean_captions, shard_clip
from audio2img_core.batch.jobs import INDEX
from audio2img_core.checks import first_line, message
from audio2img_core.storage.manifests import Rows, read_manifest
from audio2img_core.storage.paths import base_name, joined, read
from audio2img_core.storage.shards import MOST_BYTES, DamagedShard, Sample, read_shard

from .clips import Source

_JSON_CAPTIONS = ("caption", "captions", "text")
_PEEK = 64  # clips of the first shard that are looked at before a training starts


class TarSource(Source):
    """Clips in tar shards (the WebDataset layout), read from beginning to end; never a whole shard in memory."""

    streaming = True

    def __init__(self, name: str, shards: Sequence[str]) -> None:
        """Take shards by path or URL."""
        super().__init__(name)
        self.shards = tuple(shards)
        count = Counter(map(base_name, self.shards))
        # What clips of a shard are called by: its own name, unless others in other folders have the same.
        self.names = {s: base_name(s) if count[base_name(s)] == 1 else s for s in self.shards}

    def __len__(self) -> int:
        raise TypeError(f"{self.name} is streamed: its number of clips is not known")

    def __getitem__(self, index: int) -> AudioClip:
        raise TypeError(f"{self.name} is streamed: it has no clip number {index}")

    def __iter__(self) -> Iterator[AudioClip]:
        return self.read()

    def captions(self) -> Iterator[tuple[str, ...]]:
        return (clip.captions for clip in self.read(audio=False) if not clip.problem)

    def read(
        self, *, reader: int = 0, readers: int = 1, generator: torch.Generator | None = None, audio: bool = True
    ) -> Iterator[AudioClip]:
        """The part of reader `reader` of `readers`: together they read every clip exactly once.

        Shards are dealt out where there is one for each reader; otherwise all walk through all shards and take
        every `readers`-th clip, and of the others read the headers only.

        Args:
            generator: shuffles the shards; all readers must bring the same state. None = in order.
            audio: False leaves the sounds unread (empty bytes).
        """
        order = range(len(self.shards)) if generator is None else torch.randperm(len(self.shards), generator=generator)
        shards = [self.shards[int(index)] for index in order]
        deal = len(shards) >= readers
        counter = itertools.count()

        def wanted(_: int) -> bool:
            return deal or next(counter) % readers == reader

        for shard in shards[reader::readers] if deal else shards:
            try:
                yield from (captioned(sample, self.names[shard]) for sample in read_shard(shard, wanted, audio=audio))
            except (DamagedShard, OSError) as error:
                if deal or reader == 0:
                    yield AudioClip(self.names[shard], b"", (), problem=f"the shard ends here: {first_line(error)}")


class PreparedSource(Source):
    """Clips that `prepare` wrote, each read alone from the place in its shard that the index gives."""

    def __init__(self, folder: str, shards: Sequence[str], rows: Rows) -> None:
        """Take the folder's index.

        Args:
            folder, shards: paths or URLs.
            rows: of the index, with their numbers.

        Raises:
            ValueError: a row that names no clip of these shards.
        """
        super().__init__(folder)
        files = {base_name(shard): shard for shard in shards}
        self._rows = []
        for number, row in rows:
            shard, offset, size = files.get(row.get("shard", "")), row.get("offset"), row.get("size")
            if (
                shard is None
                or type(offset) is not int
                or type(size) is not int
                or not (offset >= 0 and 0 < size <= MOST_BYTES)
            ):
                raise ValueError(
                    f"{joined(folder, INDEX)}: line {number} names no clip of a shard here; prepare it again"
                )
            self._rows.append((str(row.get("clip")), shard, offset, size, clean_captions(row.get("captions"))))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> AudioClip:
        key, shard, offset, size, captions = self._rows[index]
        try:
            return AudioClip(key, read(shard, offset, offset + size), captions)
        except (OSError, ValueError, ImportError) as error:
            return AudioClip(key, b"", captions, problem=message(error))

    def captions(self) -> Iterator[tuple[str, ...]]:
        return (captions for *_, captions in self._rows)


def open_shards(folder: str, shards: Sequence[str], index: str | None) -> Source:
    """Open a folder's tar shards: with an index by `prepare` clip by clip, else as a stream.

    Raises:
        ValueError: the index or the first shard is invalid. OSError, ImportError: they cannot be read.
    """
    rows, columns = read_manifest(index) if index else ((), [])
    if {"clip", "shard", "offset", "size"} <= set(columns):
        return PreparedSource(folder, shards, rows)
    return peeked(TarSource(folder, shards))


def peeked(source: TarSource) -> TarSource:
    """`source`, or ValueError if its first shard is none, or begins without any clip or caption."""
    clips = list(itertools.islice(TarSource(source.name, source.shards[:1]).read(audio=False), _PEEK))
    broken = next((clip.problem for clip in clips if clip.key == base_name(source.shards[0])), "")
    if not any(not clip.problem for clip in clips):
        raise ValueError(f"{source.shards[0]}: no clip found{f' ({broken})' if broken else ''}")
    if not any(clip.captions for clip in clips):
        raise ValueError(f"{source.shards[0]}: the captions of the first {len(clips)} clips are empty or missing")
    return source


def captioned(sample: Sample, shard: str) -> AudioClip:
    """The clip of a shard's sample and what is wrong with it; `shard` is what the shard is called."""
    captions, problem = [], sample.problem
    try:
        for content in sample.texts:
            captions += content.decode("utf-8-sig").splitlines()
        for content in sample.jsons:
            values = json.loads(content)
            values = values if isinstance(values, dict) else {}
            captions += [text for name in _JSON_CAPTIONS for text in clean_captions(values.get(name))]
    except (ValueError, RecursionError) as error:
        problem = problem or f"its caption cannot be read ({first_line(error)})"
    return replace(shard_clip(sample, shard), captions=clean_captions(captions), problem=problem)
