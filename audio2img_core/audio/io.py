"""Sound files in, waveforms out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..checks import sample_rate_of
from .excerpt import WHOLE, Excerpt
from .resample import resample_blocks

SAMPLE_RATE = 16_000  # what the encoders expect


def load_audio(
    path: str | os.PathLike | BinaryIO,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int | None = SAMPLE_RATE,
    max_seconds: float | None = None,
) -> tuple[Tensor, int]:
    """Decode a sound file, the sound of a video file, or a part of it, with all its channels.

    Only the part asked for is decoded: FFmpeg seeks a little before `start`, and samples are dropped by their
    timestamps, so that the result is a slice of the whole. A file that is damaged, or shorter than its container
    says, gives what can be decoded and one logged warning. The containers of WAV, Ogg and MP3 without a tag do not say
    how long they were.

    Args:
        path: a local file, or a seekable binary file object (read from its beginning, left open).
        start: seconds from the beginning.
        duration: seconds at most; None = to the end.
        sample_rate: Hz of the result; None = the file's own.
        max_seconds: length above which reading is refused, as of `Excerpt`.

    Returns:
        waveform [C, T] float32 on the CPU, nominally in -1..1, with the file's channels, and its rate in Hz.

    Raises:
        FileNotFoundError, PermissionError: the path cannot be opened.
        ValueError: an argument is out of range, the file is not decodable sound, it refers to other files,
            `start` is at or past its end, it holds more than `max_seconds`, or NaN or infinite samples.
    """
    excerpt = Excerpt(start, duration, max_seconds)
    if sample_rate is not None:
        sample_rate = sample_rate_of(sample_rate)
    rate, blocks = _decode(path, excerpt, mono=False)
    wanted = rate if sample_rate is None else sample_rate
    return torch.cat(list(resample_blocks(blocks, rate, wanted)), -1), wanted


def stream_mono(path: str | os.PathLike | BinaryIO, excerpt: Excerpt = WHOLE) -> Iterator[Tensor]:
    """Decode a sound file block by block: [T] float32 each, mono, 16 kHz.

    Joined, the blocks are the clip that `read_clips` gives. Hours of sound take no more memory than minutes. Errors are
    those of `load_audio`; an error in the middle of a file comes after the blocks before it.
    """
    rate, blocks = _decode(path, excerpt, mono=True)
    for block in resample_blocks(blocks, rate, SAMPLE_RATE):
        yield block[0]


def _decode(path: str | os.PathLike | BinaryIO, excerpt: Excerpt, *, mono: bool) -> tuple[int, Iterator[Tensor]]:
    """The file's own rate and the excerpt's samples at it, in blocks [C, T]."""
    decoded = _decoded(path, excerpt, mono=mono)
    rate, first = next(decoded)
    return rate, itertools.chain([first], (block for _, block in decoded))


def _decoded(path: str | os.PathLike | BinaryIO, excerpt: Excerpt, *, mono: bool) -> Iterator[tuple[int, Tensor]]:
    # PyAV takes a tenth of a second to import, which a ComfyUI that starts need not wait for.
    from .container import open_audio
    from .decode import SEEK_FROM, Reader

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
