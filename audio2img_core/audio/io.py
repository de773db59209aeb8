"""Sound files in, waveforms out: loading, mixing to mono, and the checks on audio from elsewhere."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..checks import describe, sample_rate_of
from .excerpt import Excerpt
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
    rate, blocks = _decode(path, Excerpt(start, duration, max_seconds), mono=False)
    wanted = rate if sample_rate is None else sample_rate
    return torch.cat(list(resample_blocks(blocks, rate, wanted)), -1), wanted


def load_mono(
    path: str | os.PathLike | BinaryIO,
    excerpt: Excerpt | None = None,
    *,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float | None = None,
) -> Tensor:
    """What the encoder takes of a file: [T] float32, mono, 16 kHz.

    The same numbers as `prepare(*load_audio(path, sample_rate=None))`, without ever holding all channels.
    Arguments and errors as of `load_audio`.
    """
    return torch.cat(list(stream_mono(path, excerpt or Excerpt(start, duration, max_seconds))))


def stream_mono(
    path: str | os.PathLike | BinaryIO,
    excerpt: Excerpt | None = None,
    *,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float | None = None,
) -> Iterator[Tensor]:
    """What `load_mono` gives, block by block as it is decoded: [T] float32, mono, 16 kHz.

    Hours of sound take no more memory than minutes. Arguments and errors as of `load_audio`; an error in the middle of
    a file comes after the blocks before it.
    """
    rate, blocks = _decode(path, excerpt or Excerpt(start, duration, max_seconds), mono=True)
    for block in resample_blocks(blocks, rate, SAMPLE_RATE):
        yield block[0]


def check_part(start: float, duration: float | None) -> None:
    """Refuse a part of a file that cannot be, as `Excerpt` does."""
    Excerpt(start, duration)


def _decode(path: str | os.PathLike | BinaryIO, excerpt: Excerpt, *, mono: bool) -> tuple[int, Iterator[Tensor]]:
    """The file's own rate and the part's samples at it, in blocks [C, T]."""
    decoded = _decoded(path, excerpt, mono=mono)
    rate, first = next(decoded)
    return rate, itertools.chain([first], (block for _, block in decoded))


def _decoded(path: str | os.PathLike | BinaryIO, excerpt: Excerpt, *, mono: bool) -> Iterator[tuple[int, Tensor]]:
    # PyAV takes a tenth of a second to import, which a ComfyUI that starts need not wait for.
    from .decode import SEEK_FROM, Reader, open_audio

    for seeking in (True, False) if excerpt.start >= SEEK_FROM else (False,):
        with open_audio(path) as (container, stream, name):
            reader = Reader(container, stream, name)
            blocks = reader.read(excerpt, seeking=seeking, mono=mono)
            if blocks is None:
                continue
            for samples in blocks:
                if not np.isfinite(samples).all():
                    raise ValueError(f"{name} holds NaN or infinite samples; allowed: finite samples")
                yield reader.rate, torch.from_numpy(samples)
            return


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
