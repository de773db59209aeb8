"""From whole sound files to clips: mono, 16 kHz, without silence at the ends, at most a few seconds each."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from audio2img_core.audio.io import SAMPLE_RATE, load_audio

LONGEST = 8.0  # seconds; a longer sound is cut
PIECE = 5.0  # seconds of a cut piece
MOST = 8  # pieces of one file
_FRAME = SAMPLE_RATE // 50


def load(path: str | os.PathLike) -> Tensor:
    """A sound file as a waveform [T] float32 at 16 kHz, its channels averaged.

    Raises:
        ValueError, FileNotFoundError: as `load_audio`.
    """
    waveform, _ = load_audio(path, sample_rate=SAMPLE_RATE)
    return waveform.mean(0)


def levels(waveform: Tensor) -> Tensor:
    """Root mean square of frames of 20 ms: [T] -> [ceil(T / 320)]."""
    padded = torch.nn.functional.pad(waveform, (0, -len(waveform) % _FRAME))
    return padded.view(-1, _FRAME).square().mean(1).sqrt()


def trimmed(waveform: Tensor, *, below: float = 0.006, margin: float = 0.06) -> Tensor:
    """Without silence at both ends: [T] -> [T' <= T].

    Args:
        below: silence is under this part of the loudest frame (0.006 = -44 dB).
        margin: seconds kept around what is not silent.
    """
    if not len(waveform):
        return waveform
    loud = levels(waveform)
    heard = (loud > below * loud.max()).nonzero()
    if not len(heard):
        return waveform[:0]
    keep = round(margin * SAMPLE_RATE)
    start = max(int(heard[0]) * _FRAME - keep, 0)
    return waveform[start : (int(heard[-1]) + 1) * _FRAME + keep]


def clips_of(
    waveform: Tensor, *, longest: float = LONGEST, piece: float = PIECE, most: int = MOST
) -> list[tuple[float, Tensor]]:
    """Cut a sound into clips, each with its start in seconds within the trimmed sound.

    A sound of at most `longest` seconds is one clip. A longer one gives pieces of `piece` seconds that do not
    overlap, at most `most` of them spread over the whole; pieces far quieter than the rest (-30 dB) are left out.
    Every clip is scaled to a peak of 0.8, faded in and out over 5 ms. Silent sounds (peak under 0.001, or shorter
    than 50 ms after trimming) give none.

    Args:
        waveform: [T] float32 at 16 kHz.
    """
    whole = trimmed(waveform - waveform.mean()) if len(waveform) else waveform
    if len(whole) < 0.05 * SAMPLE_RATE or whole.abs().max() < 1e-3:
        return []
    if len(whole) <= longest * SAMPLE_RATE:
        return [(0.0, finished(whole))]
    size = round(piece * SAMPLE_RATE)
    count = min(len(whole) // size, most)
    starts = np.linspace(0, len(whole) - size, count).round().astype(int).tolist()
    pieces = [whole[start : start + size] for start in starts]
    loudest = max(float(cut.square().mean().sqrt()) for cut in pieces)
    kept = [
        (start / SAMPLE_RATE, finished(cut))
        for start, cut in zip(starts, pieces, strict=True)
        if float(cut.square().mean().sqrt()) > 0.03 * loudest
    ]
    return kept


def finished(waveform: Tensor) -> Tensor:
    """Scaled to a peak of 0.8 and faded over 5 ms at both ends: [T] -> [T]."""
    waveform = waveform * (0.8 / waveform.abs().max().clamp_min(1e-9))
    fade = min(round(0.005 * SAMPLE_RATE), len(waveform) // 2)
    ramp = torch.linspace(0, 1, fade)
    waveform = waveform.clone()
    waveform[:fade] *= ramp
    waveform[len(waveform) - fade :] *= ramp.flip(0)
    return waveform
