"""Opening a sound file safely with PyAV, and what its container says of it."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError

from ..checks import one_line

ALLOWED = "a sound or video file that FFmpeg can decode (wav, flac, mp3, ogg, opus, m4a, mp4, webm, mkv, ...)"
# Formats that only list other files or URLs.
_POINTERS = {"hls", "concat", "dash", "imf", "sdp", "rtsp"}


@contextlib.contextmanager
def open_audio(path: str | os.PathLike | BinaryIO) -> Iterator[tuple[InputContainer, av.AudioStream, str]]:
    """Open a sound file: its container, the audio stream to decode, and the name for messages.

    Raises:
        OSError: the path cannot be opened.
        ValueError: FFmpeg fails, there or in the body of the `with`; the file has no sound or refers to other files.
    """
    with contextlib.ExitStack() as stack:
        file, name = _open_file(path, stack)
        others: list[str] = []
        try:
            container = stack.enter_context(_open_container(file, others))
            kind = container.format.name.split(",")[0]
            if kind in _POINTERS:
                raise ValueError(f"{name} only lists other files (format {kind}); allowed: {ALLOWED}")
            stream = container.streams.best("audio")
            if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
                raise ValueError(f"{name} has no audio stream that can be decoded; allowed: {ALLOWED}")
            yield container, stream, name
        except FFmpegError as error:
            problem = f"refers to another file, {others[0]!r}" if others else f"cannot be decoded ({error.strerror})"
            raise ValueError(one_line(f"{name} {problem}; allowed: {ALLOWED}")) from error


@dataclass(frozen=True)
class AudioInfo:
    """What a container says of its sound before anything is decoded."""

    rate: int  # Hz
    channels: int
    seconds: float | None  # None = unknown; can be an estimate from the bit rate


def probe(path: str | os.PathLike | BinaryIO) -> AudioInfo:
    """Read rate, channels and duration of a sound file without decoding it.

    Raises:
        OSError, ValueError: as `open_audio`.
    """
    with open_audio(path) as (container, stream, _):
        codec = stream.codec_context
        return AudioInfo(codec.sample_rate, codec.channels, duration_of(container, stream))


def duration_of(container: InputContainer, stream: av.AudioStream) -> float | None:
    """Return the seconds that the stream's header announces, else the container's."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _open_file(path: str | os.PathLike | BinaryIO, stack: contextlib.ExitStack) -> tuple[BinaryIO, str]:
    """Return the file object for FFmpeg and the name for messages.

    FFmpeg never opens a path: names such as `concat:a|b` are just files, and Python's own errors come out.
    """
    if isinstance(path, (str, os.PathLike)):
        name = one_line(os.fspath(path))
        if os.path.isdir(path):
            raise ValueError(f"{name} is a folder; allowed: {ALLOWED}")
        file = stack.enter_context(open(path, "rb"))  # noqa: SIM115 - the stack closes it
        if not file.seekable():
            raise ValueError(f"{name} is a pipe or device, not a file; allowed: {ALLOWED}")
    else:
        file, name = path, one_line(str(getattr(path, "name", "the file object")))
        if isinstance(file, io.TextIOBase) or not (hasattr(file, "read") and hasattr(file, "seek") and file.seekable()):
            raise ValueError(f"{name} must be a path or a seekable binary file object, not {type(path).__name__}")
    if file.seek(0, os.SEEK_END) == 0:
        raise ValueError(f"{name} is empty; allowed: {ALLOWED}")
    file.seek(0)
    return file, name


def _open_container(file: BinaryIO, others: list[str]) -> InputContainer:
    """Open the container in `file`; URLs of other files that it asks for go to `others` and are not opened."""

    def refuse(url: str, flags: int, options: dict) -> BinaryIO:
        others.append(url)
        return io.BytesIO()  # an exception here could be raised by some later, unrelated call of PyAV's

    # The whitelist names no protocol that exists: what does not ask `refuse` cannot open anything either.
    return av.open(file, "r", options={"protocol_whitelist": "none"}, io_open=refuse, metadata_errors="replace")
