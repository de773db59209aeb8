"""Tar shards in the WebDataset layout: members with the same name up to its first dot belong together."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from lzma import LZMAError
from pathlib import PurePosixPath
from typing import BinaryIO

from ..checks import first_line
from .files import AUDIO_SUFFIXES
from .paths import absent, matching, opened

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MOST_BYTES = 2**30  # of one member: a header may claim anything
_DAMAGE = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, LZMAError)
_DAMAGE += (ValueError, OverflowError, MemoryError, RecursionError)  # what strange headers make of tarfile


class DamagedShard(ValueError):
    """A tar file that ends in the middle, or whose headers cannot be."""


@dataclass(frozen=True)
class Sample:
    """What stands in a shard under one name."""

    name: str  # with the folder in the shard
    number: int  # in the shard, from 0 on
    audio: list[bytes] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)  # .txt
    jsons: list[bytes] = field(default_factory=list)

    @property
    def problem(self) -> str:
        """Why there is no audio to take; empty where there is some."""
        if len(self.audio) == 1:
            return ""
        return "no sound beside the caption" if not self.audio else f"{len(self.audio)} sounds of one name"


def is_tar(name: str) -> bool:
    """Whether a path, a URL or a pattern of shards ends as a tar file."""
    return name.lower().endswith(TAR_SUFFIXES)


def find_shards(pattern: str) -> list[str]:
    """Files that a pattern with {000..012}, {a,b}, * or ? names, in order; paths or URLs.

    Raises:
        FileNotFoundError: none, or not all, are there.
    """
    names = list(_braces(pattern))
    missing = absent(names)
    if len(missing) == len(names) and any(re.search(r"[*?[]", name) for name in names):
        names, missing = [file for name in names for file in matching(name)], []
    if not names or len(missing) == len(names):
        raise FileNotFoundError(f"{pattern}: no such shard")
    if missing:
        raise FileNotFoundError(f"{pattern}: {len(missing)} of {len(names)} shards are missing, first {missing[0]}")
    return list(dict.fromkeys(names))


def read_shard(
    shard: str, wanted: Callable[[int], bool] = lambda number: True, *, audio: bool = True
) -> Iterator[Sample]:
    """The samples of one tar file from beginning to end; never the whole shard in memory, nothing is unpacked.

    Args:
        shard: its path or URL.
        wanted: asked once for each sample in turn, with its number; those it denies are passed over.
        audio: False leaves the audio unread (empty bytes).

    Raises:
        DamagedShard: the whole samples before come out. OSError, ImportError: it cannot be read now.
    """
    with opened(shard) as file:
        try:
            yield from _read_samples(file, wanted, audio=audio)
        except _DAMAGE as error:
            raise DamagedShard(first_line(error) if str(error) else type(error).__name__) from error


def _read_samples(file: BinaryIO, wanted: Callable[[int], bool], *, audio: bool) -> Iterator[Sample]:
    name, number, sample = None, -1, None
    with tarfile.open(fileobj=file, mode="r:*") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue] - or all headers stay in memory
            path = PurePosixPath(member.name)
            if not member.isreg() or path.name.startswith("."):
                continue
            base = str(path.parent / path.name.split(".")[0])
            if base != name:
                if sample is not None and (sample.audio or sample.texts or sample.jsons):
                    yield sample
                name, number = base, number + 1
                sample = Sample(base, number) if wanted(number) else None
            if member.issparse() or member.size > MOST_BYTES:
                raise tarfile.ReadError(f"a member claims {member.size} bytes")
            suffix = path.suffix.lower()
            if sample is None or suffix not in AUDIO_SUFFIXES | {".txt", ".json"}:
                continue
            into = {".txt": sample.texts, ".json": sample.jsons}.get(suffix, sample.audio)
            content = tar.extractfile(member) if audio or into is not sample.audio else None
            into.append(content.read() if content is not None else b"")
        # tarfile takes a damaged header for the end of the archive.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("damaged header")
    if sample is not None and (sample.audio or sample.texts or sample.jsons):
        yield sample


def _braces(pattern: str) -> Iterator[str]:
    """`a{00..02}.tar` -> a00.tar, a01.tar, a02.tar; `{a,b}.tar` -> a.tar, b.tar; both as often as they occur."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    if words is None:
        middle: Iterable[str] = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    else:
        middle = words.split(",")
    for part in middle:
        yield from _braces(pattern[: match.start()] + part + pattern[match.end() :])
