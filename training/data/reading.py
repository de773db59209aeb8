"""Decoding the part of a clip that is trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from audio2img_core.audio.clips import AudioClip
from audio2img_core.audio.container import probe
from audio2img_core.audio.excerpt import Excerpt
from audio2img_core.audio.io import SAMPLE_RATE
from audio2img_core.audio.waveform import read_clips
from audio2img_core.checks import one_line

from .augment import crop_offset, random_crop
from .config import DataConfig


def try_clip(
    clip: AudioClip, config: DataConfig, generator: torch.Generator | None = None
) -> tuple[Tensor | None, str]:
    """`read_clip`, or (None, the reason in one line) of a clip that is not fit for training."""
    try:
        return read_clip(clip, config, generator), ""
    except (ValueError, OSError) as error:
        return None, one_line(getattr(error, "strerror", None) or str(error))
    except Exception as error:  # one odd file must not end a work of days; many do, by their share
        return None, one_line(f"{type(error).__name__}: {error}")


def read_clip(clip: AudioClip, config: DataConfig, generator: torch.Generator | None = None) -> Tensor:
    """The part of a clip that an item shows: [T] float32, mono, 16 kHz, at most `config.samples` long.

    Only that part is decoded where the length is known before. Where it would be silent or is shorter than it
    should be, the whole clip is decoded, and the part around its loudest sample taken.

    Args:
        generator: chooses the part where `config.random_crop` is on; None = the beginning.

    Raises:
        ValueError, OSError: a clip that is not fit for training; the message is one line.
    """
    if clip.problem or not clip.captions:
        raise ValueError(clip.problem or "no caption")
    size, smallest = config.samples, round(config.min_seconds * SAMPLE_RATE)
    floor = 10.0 ** (config.silence_db / 20)
    if not config.random_crop or config.window_seconds is None:
        generator = None
    offset, length = 0, None if generator is None else _length(clip)
    if generator is not None and length is not None:
        offset = crop_offset(round(length * SAMPLE_RATE), size, generator)
    if generator is None or length is not None:
        try:
            part = _decode(clip, offset, size)
        except ValueError:
            if offset == 0:
                raise
            part = torch.zeros(0)  # the header promised more than there is
        if len(part) >= smallest and part.abs().max() >= floor:
            return part
    whole = _decode(clip, 0, max(size, round(config.max_seconds * SAMPLE_RATE)))
    if len(whole) < smallest:
        raise ValueError(f"too short: {len(whole) / SAMPLE_RATE:.3f} s, at least {config.min_seconds:g} s are needed")
    peak = int(whole.abs().argmax())
    if whole[peak].abs() < floor:
        raise ValueError(f"silent: its peak lies below {config.silence_db:g} dB")
    if generator is not None and length is None:
        part = random_crop(whole, size, generator)
        if part.abs().max() >= floor:
            return part
    offset = min(max(peak - size // 2, 0), max(len(whole) - size, 0))
    return whole[offset : offset + size]


def _decode(clip: AudioClip, offset: int, samples: int) -> Tensor:
    """At most `samples` samples from sample `offset` of the clip on: [T] float32, mono, 16 kHz."""
    if clip.end is not None:
        samples = min(samples, round((clip.end - clip.start) * SAMPLE_RATE) - offset)
    if samples < 1:
        return torch.zeros(0)
    start = clip.start + offset / SAMPLE_RATE
    with clip.opened() as file:
        return read_clips(file, Excerpt(start, samples / SAMPLE_RATE))[0][:samples]


def _length(clip: AudioClip) -> float | None:
    """Seconds of the clip by its manifest and the file's container; None = unknown."""
    with clip.opened() as file:
        try:
            seconds = probe(file).seconds
        except ValueError:
            return None  # decoding says why
    return None if seconds is None else max(min(seconds, clip.end or seconds) - clip.start, 0.0)
