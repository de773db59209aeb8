"""Sounds to encode, wherever they lie: files, folders, manifests and tar shards, by path or address."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath

from torch import Tensor

from ..storage.files import AUDIO_SUFFIXES, no_sound
from ..storage.manifests import AUDIO_COLUMNS, part_name, read_table, span, table_kind
from ..storage.paths import absolute, base_name, beside, files_below, is_address, kind, opened
from ..storage.tars import Sample, find_shards, is_tar
from .io import stream_mono


@dataclass(frozen=True)
class Sound:
    """One sound, or a part of one, that is not decoded yet."""

    key: str  # names it in messages and in what is written; unique among those of one work
    audio: str | bytes  # a path or an address, or the file's content
    start: float = 0.0  # seconds from the beginning
    end: float | None = None  # seconds; None = to the end
    problem: str = ""  # why it cannot be used, where that is known before decoding

    def blocks(self, start: float = 0.0, duration: float | None = None) -> Iterator[Tensor]:
        """Its samples as `stream_mono` gives them, of the part from `start` on of `duration` seconds.

        Raises:
            ValueError, OSError, ImportError: as `stream_mono` and `addresses.opened`.
        """
        if self.problem:
            raise ValueError(f"{self.key}: {self.problem}")
        if self.end is not None:
            left = self.end - self.start - start
            if left <= 0:
                raise ValueError(f"start {start:g} s is at or past the end of {self.key}, which is taken to {self.end}")
            duration = left if duration is None else min(duration, left)
        with audio_file(self.audio, self.key) as file:
            yield from stream_mono(file, start=self.start + start, duration=duration)


@contextlib.contextmanager
def audio_file(audio: str | bytes, name: str) -> Iterator[str | io.IOBase]:
    """What `load_audio` takes of a path, an address or a file's content, which messages then call `name`."""
    if isinstance(audio, bytes):
        file = _NamedBytes(audio)
        file.name = name
        yield file
    elif is_address(audio):
        with opened(audio) as file:
            yield file
    else:
        yield audio


def list_sounds(inputs: Iterable[str]) -> tuple[list[Sound], list[str]]:
    """What the inputs name: sounds by themselves, and tar shards, whose sounds are known when they are read.

    Args:
        inputs: paths or addresses of sounds and videos, of folders of them or of tar shards, of manifests (.csv, .tsv,
            .jsonl or .parquet with a column audio or file_name and, where parts are meant, start and end), and
            patterns of tar shards.

    Raises:
        FileNotFoundError: one does not exist. ValueError: there is no sound in one, or a manifest that cannot be.
        OSError, ImportError: an address that cannot be asked.
    """
    sounds: dict[str, Sound] = {}
    shards: list[str] = []
    for name in inputs:
        if is_tar(name):
            shards += map(absolute, find_shards(name))
            continue
        found = kind(name)
        if found is None:
            raise FileNotFoundError(f"{name}: no such file")
        if found == "folder":
            files = files_below(name)
            tars = [file for file in files if is_tar(file)]
            below = [file for file in files if PurePath(file).suffix.lower() in AUDIO_SUFFIXES]
            if not below and not tars:
                raise no_sound(name)
            shards += map(absolute, tars)
            sounds |= {sound.key: sound for sound in map(_sound, below)}
        elif table_kind(name):
            sounds |= {sound.key: sound for sound in _manifest(name)}
        else:
            sounds[_key(name)] = _sound(name)
    return list(sounds.values()), list(dict.fromkeys(shards))


def tar_sound(sample: Sample, shard: str) -> Sound:
    """The sound of a shard's sample."""
    return Sound(f"{_key(shard)}/{sample.name}", sample.sounds[0] if sample.sounds else b"", problem=sample.problem)


def _key(name: str) -> str:
    return name if is_address(name) else PurePath(name).as_posix()


def _sound(name: str) -> Sound:
    key = _key(name)
    if not key.isprintable() or key.encode("utf-8", "replace") != key.encode("utf-8", "surrogateescape"):
        return Sound(ascii(key), b"", problem="its name is not UTF-8 that can be printed")
    return Sound(key, absolute(name))


def _manifest(name: str) -> Iterator[Sound]:
    rows, columns = read_table(name)
    column = next((column for column in AUDIO_COLUMNS if column in columns), None)
    if column is None:
        raise ValueError(f"{name}: no column {' or '.join(AUDIO_COLUMNS)}; found: {', '.join(columns) or 'none'}")
    for number, row in rows:
        try:
            audio = row.get(column)
            if not isinstance(audio, str) or not audio.strip():
                raise ValueError("no audio")
            start, end = span(row.get("start"), row.get("end"))
        except ValueError as error:
            yield Sound(f"{base_name(name)}:{number}", b"", problem=str(error))
            continue
        audio = beside(name, audio.strip())
        yield Sound(part_name(_key(audio), start, end), absolute(audio), start, end)


class _NamedBytes(io.BytesIO):
    name = ""
