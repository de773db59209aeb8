"""Sound files in, waveforms out: loading, mixing to mono, and the checks on audio from elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..checks import describe, one_line, sample_rate_of
from .resample import resample, resample_blocks

SAMPLE_RATE = 16_000  # what the encoders expect


def load_audio(
    path: str | os.PathLike | BinaryIO,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int | None = SAMPLE_RATE,
    max_seconds: float | None = None,
) -> tuple[Tensor, int]:
    """Decode a sound file, or the sound of a video file, or a part of it.

    Only the part asked for is decoded: FFmpeg seeks a little before `start`, and samples are dropped by their
    timestamps, so that the result is a slice of the whole. A file that is damaged or shorter than its header
    says gives what can be decoded and one logged warning (Ogg's header says nothing of its length).

    Args:
        path: a local file, or a seekable binary file object (read from its beginning, left open).
        start: seconds from the beginning.
        duration: seconds at most; None = to the end.
        sample_rate: Hz of the result; None = the file's own.
        max_seconds: beyond which a part is refused, of stereo at 48 kHz, and as many fewer as more channels or a higher
            rate take more memory; None = AUDIO2IMG_MAX_SECONDS of the environment, else 4 hours.

    Returns:
        waveform [C, T] float32 on the CPU, nominally in -1..1, with the file's channels, and its rate in Hz.

    Raises:
        FileNotFoundError, PermissionError: the path cannot be opened.
        ValueError: an argument is out of range, the file is not decodable sound, it refers to other files,
            `start` is at or past its end, it holds more than `max_seconds`, or NaN or infinite samples.
    """
    if sample_rate is not None:
        sample_rate = sample_rate_of(sample_rate)
    rate, blocks = _decode(path, start, duration, max_seconds, mono=False)
    wanted = rate if sample_rate is None else sample_rate
    return torch.cat(list(resample_blocks(blocks, rate, wanted)), -1), wanted


def load_mono(
    path: str | os.PathLike | BinaryIO,
    *,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float | None = None,
) -> Tensor:
    """What the encoder takes of a file: [T] float32, mono, 16 kHz.

    The same numbers as `prepare(*load_audio(path, sample_rate=None))`, without ever holding all channels.
    Arguments and errors as of `load_audio`.
    """
    return torch.cat(list(stream_mono(path, start=start, duration=duration, max_seconds=max_seconds)))


def stream_mono(
    path: str | os.PathLike | BinaryIO,
    *,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float | None = None,
) -> Iterator[Tensor]:
    """What `load_mono` gives, block by block as it is decoded: [T] float32, mono, 16 kHz.

    Hours of sound take no more memory than minutes. Arguments and errors as of `load_audio`; an error in the middle of
    a file comes after the blocks before it.
    """
    rate, blocks = _decode(path, start, duration, max_seconds, mono=True)
    for block in resample_blocks(blocks, rate, SAMPLE_RATE):
        yield block[0]


def check_part(start: float, duration: float | None) -> None:
    """Refuse a part of a file that cannot be.

    Raises:
        ValueError: start is negative or not finite, duration is not above 0 or not finite.
    """
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start must be a finite number of seconds >= 0, not {start!r}")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration must be None or a finite number of seconds > 0, not {duration!r}")


def _most_seconds(given: float | None) -> float:
    """`max_seconds` as it is given, else the environment's, else the default."""
    from .decode import MAX_SECONDS, MAX_SECONDS_VARIABLE

    name, value = "max_seconds", given
    if given is None:
        name, value = MAX_SECONDS_VARIABLE, os.environ.get(MAX_SECONDS_VARIABLE) or MAX_SECONDS
    with contextlib.suppress(TypeError, ValueError):
        if (seconds := float(value)) > 0:
            return seconds
    raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")


def _decode(
    path: str | os.PathLike | BinaryIO,
    start: float,
    duration: float | None,
    max_seconds: float | None,
    *,
    mono: bool,
) -> tuple[int, Iterator[Tensor]]:
    """The file's own rate and the part's samples at it, in blocks [C, T]."""
    check_part(start, duration)
    decoded = _decoded(path, start, duration, _most_seconds(max_seconds), mono=mono)
    rate, first = next(decoded)
    return rate, itertools.chain([first], (block for _, block in decoded))


def _decoded(
    path: str | os.PathLike | BinaryIO, start: float, duration: float | None, max_seconds: float, *, mono: bool
) -> Iterator[tuple[int, Tensor]]:
    import av  # a tenth of a second, which a ComfyUI that starts need not wait for

    from .decode import ALLOWED, SEEK_FROM, Reader, open_container, open_file

    with contextlib.ExitStack() as stack:
        file, name = open_file(path, stack)
        others: list[str] = []
        try:
            for seeking in (True, False) if start >= SEEK_FROM else (False,):
                file.seek(0)
                with open_container(file, others) as container:
                    reader = Reader(container, file, name)
                    blocks = reader.read(start, duration, seeking=seeking, mono=mono, max_seconds=max_seconds)
                    if blocks is None:
                        continue
                    for samples in blocks:
                        if not np.isfinite(samples).all():
                            raise ValueError(f"{name} holds NaN or infinite samples; allowed: finite samples")
                        yield reader.rate, torch.from_numpy(samples)
                    return
        except av.error.FFmpegError as error:
            if others:
                raise ValueError(
                    one_line(f"{name} refers to another file, {others[0]!r}; allowed: {ALLOWED}")
                ) from error
            raise ValueError(one_line(f"{name} cannot be decoded ({error.strerror}); allowed: {ALLOWED}")) from error


def to_mono(waveform: Tensor) -> Tensor:
    """Mean over channels: [..., C, T] float -> [..., T] of the same dtype.

    Raises:
        ValueError: fewer than two dimensions, no channel, or not float.
    """
    if waveform.ndim < 2 or waveform.shape[-2] == 0 or not waveform.is_floating_point():
        raise ValueError(f"waveform must be float [..., C, T] with C >= 1, not {describe(waveform)}")
    return waveform.mean(dim=-2)


def read_audio_mapping(audio: Mapping | None) -> tuple[Tensor, int]:
    """Check ComfyUI's AUDIO, which may be a lazy mapping.

    Args:
        audio: a mapping with "waveform", float [B, C, T], and "sample_rate", an integer in Hz.

    Returns:
        waveform [B, C, T] float32 and the sample rate in Hz.

    Raises:
        ValueError: None, not a mapping, a key is missing, or a value is not what it should be.
    """
    if audio is None:
        raise ValueError("no audio (None): the video or file has no sound; allowed: AUDIO with a waveform")
    if not isinstance(audio, Mapping):
        raise ValueError(f"audio must be a mapping with waveform and sample_rate, not {type(audio).__name__}")
    try:
        waveform, sample_rate = audio["waveform"], audio["sample_rate"]
    except KeyError as error:
        raise ValueError(f"audio lacks {error}; allowed: a mapping with waveform and sample_rate") from error
    sample_rate = sample_rate_of(sample_rate)
    if not isinstance(waveform, Tensor) or waveform.ndim != 3:
        raise ValueError(f"waveform must be a float tensor [B, C, T], not {describe(waveform)}")
    return _checked(waveform), sample_rate


def prepare(waveform: Tensor, sample_rate: int) -> Tensor:
    """What the encoder takes: [B, T] float32, mono, 16 kHz, on the same device.

    Args:
        waveform: float [T], one mono clip; [C, T], ONE clip of C channels (as `load_audio` returns);
            or [B, C, T], B clips.
        sample_rate: Hz, an integer.

    Raises:
        ValueError: another rank, empty, not float, NaN or infinite samples, or an impossible sample rate.
    """
    sample_rate = sample_rate_of(sample_rate)
    if not isinstance(waveform, Tensor) or waveform.ndim not in (1, 2, 3):
        raise ValueError(f"waveform must be a float tensor [T], [C, T] or [B, C, T], not {describe(waveform)}")
    waveform = _checked(waveform)
    mono = to_mono(waveform.reshape(-1, *waveform.shape[-2:]) if waveform.ndim > 1 else waveform[None, None])
    return resample(mono, sample_rate, SAMPLE_RATE)


def _checked(waveform: Tensor) -> Tensor:
    """`waveform` as float32, or ValueError if it is empty, not float, or not finite."""
    if not waveform.is_floating_point():
        raise ValueError(f"waveform must be float in -1..1, not {describe(waveform)}")
    if waveform.numel() == 0:
        raise ValueError(f"waveform must not be empty, its shape is {list(waveform.shape)}")
    if not torch.isfinite(waveform).all():
        raise ValueError("waveform holds NaN or infinite samples; allowed: finite samples, nominally in -1..1")
    return waveform.float()
