"""The border: any sound that a caller hands over becomes clips in the one form used inside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..checks import describe, sample_rate_of
from .excerpt import WHOLE, Excerpt
from .io import SAMPLE_RATE, stream_mono
from .resample import resample

Waveform: TypeAlias = "Tensor | np.ndarray | Sequence[Tensor | np.ndarray]"
AudioInput: TypeAlias = "str | os.PathLike[str] | BinaryIO | Mapping[str, Any] | tuple[Waveform, int]"


def read_clips(audio: AudioInput | None, excerpt: Excerpt = WHOLE) -> list[Tensor]:
    """Return the clips of a sound in the form used inside: [T] float32 each, mono, 16 kHz, finite, not empty.

    Clips that already have this form come back as they are: `read_clips((clips, 16_000))` equals `clips`.

    Args:
        audio: one of: a file's path or a seekable binary file object, which is one clip; (waveform, sample_rate); or
            ComfyUI's AUDIO, a mapping (even a lazy one) with "waveform" [B, C, T] and "sample_rate". A waveform is a
            float tensor or array in -1..1, on any device: [T] or [C, T] is one clip, [B, C, T] are B clips; a list
            holds several such waveforms of any lengths.
        excerpt: the part to read of a file; waveforms are always taken whole.

    Raises:
        OSError: the path cannot be opened.
        ValueError: the file is refused as by `load_audio`; a waveform is not float, has another rank, is empty or
            holds NaN or infinite samples; the sample rate is impossible; or audio is None or none of the above.
    """
    if audio is None or isinstance(audio, Mapping):
        waveform, sample_rate = read_audio_mapping(audio)
    elif isinstance(audio, tuple):
        waveform, sample_rate = audio
    elif isinstance(audio, (Tensor, np.ndarray)):
        raise ValueError(f"audio {describe(audio)} has no sample rate; pass (waveform, sample_rate)")
    else:
        return [torch.cat(list(stream_mono(audio, excerpt)))]
    sample_rate = sample_rate_of(sample_rate)
    waveforms = waveform if isinstance(waveform, (list, tuple)) else [waveform]
    return [clip for each in waveforms for clip in _clips_of(each, sample_rate)]


def read_audio_mapping(audio: Mapping[str, Any] | None) -> tuple[Tensor, int]:
    """Return waveform [B, C, T] and sample rate of ComfyUI's AUDIO, which can be a lazy mapping.

    Raises:
        ValueError: None, not a mapping, a key is missing, or waveform is not a tensor [B, C, T].
    """
    if audio is None:
        raise ValueError("no audio (None): the video or file has no sound; allowed: AUDIO with a waveform")
    if not isinstance(audio, Mapping):
        raise ValueError(f"audio must be a mapping with waveform and sample_rate, not {type(audio).__name__}")
    try:
        waveform, sample_rate = audio["waveform"], audio["sample_rate"]
    except KeyError as error:
        raise ValueError(f"audio lacks {error}; allowed: a mapping with waveform and sample_rate") from error
    if not isinstance(waveform, Tensor) or waveform.ndim != 3:
        raise ValueError(f"waveform must be a float tensor [B, C, T], not {describe(waveform)}")
    return waveform, sample_rate


def to_mono(waveform: Tensor) -> Tensor:
    """Mean over channels: [..., C, T] float -> [..., T] of the same dtype.

    Raises:
        ValueError: fewer than two dimensions, no channel, or not float.
    """
    if waveform.ndim < 2 or waveform.shape[-2] == 0 or not waveform.is_floating_point():
        raise ValueError(f"waveform must be float [..., C, T] with C >= 1, not {describe(waveform)}")
    return waveform.mean(dim=-2)


def _clips_of(waveform: object, sample_rate: int) -> list[Tensor]:
    """The clips of one waveform [T], [C, T] or [B, C, T]."""
    if isinstance(waveform, np.ndarray):
        waveform = torch.from_numpy(np.ascontiguousarray(waveform))
    if not isinstance(waveform, Tensor) or waveform.ndim not in (1, 2, 3):
        raise ValueError(f"waveform must be a float tensor [T], [C, T] or [B, C, T], not {describe(waveform)}")
    if not waveform.is_floating_point():
        raise ValueError(f"waveform must be float in -1..1, not {describe(waveform)}")
    if waveform.numel() == 0:
        raise ValueError(f"waveform must not be empty, its shape is {list(waveform.shape)}")
    if not torch.isfinite(waveform).all():
        raise ValueError("waveform holds NaN or infinite samples; allowed: finite samples, nominally in -1..1")
    waveform = waveform.float()
    mono = waveform[None] if waveform.ndim == 1 else to_mono(waveform.reshape(-1, *waveform.shape[-2:]))
    return list(resample(mono, sample_rate, SAMPLE_RATE))
