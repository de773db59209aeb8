"""Tar shards (the WebDataset layout) as a source that is streamed."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from lzma import LZMAError
from pathlib import Path, PurePosixPath

import torch

from audio2img_core.checks import first_line
from audio2img_core.files import AUDIO_SUFFIXES

from .clips import Clip, Source, clean_captions

_JSON_CAPTIONS = ("caption", "captions", "text")
_PEEK = 64  # clips of the first shard that are looked at before a training starts
_TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, LZMAError)


class TarSource(Source):
    """Clips in tar shards (the WebDataset layout), read from beginning to end; never a whole shard in memory."""

    streaming = True

    def __init__(self, name: str, shards: Sequence[str]) -> None:
        super().__init__(name)
        self.shards = tuple(shards)

    def __len__(self) -> int:
        raise TypeError(f"{self.name} is streamed: its number of clips is not known")

    def __getitem__(self, index: int) -> Clip:
        raise TypeError(f"{self.name} is streamed: it has no clip number {index}")

    def __iter__(self) -> Iterator[Clip]:
        return self.read()

    def captions(self) -> Iterator[tuple[str, ...]]:
        return (clip.captions for clip in self.read(audio=False) if not clip.problem)

    def read(
        self, *, reader: int = 0, readers: int = 1, generator: torch.Generator | None = None, audio: bool = True
    ) -> Iterator[Clip]:
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
        for shard in shards[reader::readers] if deal else shards:
            try:
                yield from _read_shard(shard, lambda: deal or next(counter) % readers == reader, audio=audio)
            except _TAR_ERRORS as error:
                if deal or reader == 0:
                    yield Clip(Path(shard).name, b"", (), problem=f"the shard ends here: {first_line(error)}")


def peeked(source: TarSource) -> TarSource:
    """`source`, or ValueError if its first shard is none, or begins without any clip or caption."""
    clips = list(itertools.islice(TarSource(source.name, source.shards[:1]).read(audio=False), _PEEK))
    broken = next((clip.problem for clip in clips if clip.key == Path(source.shards[0]).name), "")
    if not any(not clip.problem for clip in clips):
        raise ValueError(f"{source.shards[0]}: no clip found{f' ({broken})' if broken else ''}")
    if not any(clip.captions for clip in clips):
        raise ValueError(f"{source.shards[0]}: the captions of the first {len(clips)} clips are empty or missing")
    return source


def find_shards(pattern: str) -> list[str]:
    """Files that a pattern with {000..012}, {a,b}, * or ? names, in order."""
    names = list(_braces(pattern))
    if any(glob.has_magic(name) for name in names):
        names = [file for name in names for file in sorted(glob.glob(name))]
    missing = [name for name in names if not os.path.isfile(name)]
    if not names or len(missing) == len(names):
        raise FileNotFoundError(f"{pattern}: no such shard")
    if missing:
        raise FileNotFoundError(f"{pattern}: {len(missing)} of {len(names)} shards are missing, first {missing[0]}")
    return list(dict.fromkeys(names))


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


def _read_shard(shard: str, wanted: Callable[[], bool], *, audio: bool) -> Iterator[Clip]:
    """Clips of one tar file: members with the same name up to the first dot of it, which stand side by side.

    `wanted` is asked once for each; only plain files are read, in memory, and nothing is unpacked.
    """
    stem, name, parts, take = Path(shard).name, None, {}, False
    with tarfile.open(shard, "r:*") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # or all headers of the shard stay in memory
            path = PurePosixPath(member.name)
            if not member.isreg() or path.name.startswith("."):
                continue
            base = str(path.parent / path.name.split(".")[0])
            if base != name:
                if take and parts:
                    yield _tar_clip(f"{stem}/{name}", parts)
                name, parts, take = base, {}, wanted()
            suffix = path.suffix.lower()
            if not take or suffix not in AUDIO_SUFFIXES | {".txt", ".json"}:
                continue
            kind = "audio" if suffix in AUDIO_SUFFIXES else suffix
            content = tar.extractfile(member).read() if audio or kind != "audio" else b""
            parts.setdefault(kind, []).append(content)
        # tarfile takes a damaged header for the end of the archive.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("damaged header")
    if take and parts:
        yield _tar_clip(f"{stem}/{name}", parts)


def _tar_clip(key: str, parts: dict[str, list[bytes]]) -> Clip:
    sounds, captions, problem = parts.get("audio", []), [], ""
    if len(sounds) != 1:
        problem = "no sound beside the caption" if not sounds else f"{len(sounds)} sounds of one name"
    try:
        for content in parts.get(".txt", []):
            captions += content.decode("utf-8-sig").splitlines()
        for content in parts.get(".json", []):
            values = json.loads(content)
            values = values if isinstance(values, dict) else {}
            captions += [text for name in _JSON_CAPTIONS for text in clean_captions(values.get(name))]
    except ValueError as error:
        problem = problem or f"its caption cannot be read ({first_line(error)})"
    return Clip(key, sounds[0] if sounds else b"", clean_captions(captions), problem=problem)
