"""A prompt for each frame of a video, and curves of a sound's course."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..audio.io import SAMPLE_RATE
from ..audio.mel import FRAME_HOP, FRAMES_PER_SECOND, MIN_SAMPLES, mel_frames
from ..audio.waveform import Waveform, read_clips
from ..checks import check_setting
from ..encoder.embeddings import AudioEmbeddings

if TYPE_CHECKING:
    from ..encoder.model import AudioEncoder

MAX_FRAMES = 10_000
_FLUX_FLOOR = 8.0  # nats below the loudest: what lies lower does not count as the begin of a sound


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How a sound's course becomes frames.

    Raises:
        SettingError: A value that is not allowed; it is a ValueError that names the field.
    """

    fps: float  # frames a second
    frames: int | None = None  # number of frames; None = as long as the sound. Beyond its end the last window stays
    every: int = 1  # keyframe interval: windows are encoded for these frames, between them tokens are interpolated
    window: float | None = None  # seconds of sound around a frame; None = the encoder's window
    smoothing: float = 0.0  # standard deviation of the Gaussian that tokens are averaged with, in seconds; 0 = none

    def __post_init__(self) -> None:
        check_setting("fps", self.fps, above=0, most=1000)
        if self.frames is not None:
            check_setting("frames", self.frames, least=1, most=MAX_FRAMES, whole=True)
        check_setting("every", self.every, least=1, whole=True)
        if self.window is not None:
            check_setting("window", self.window, above=0)
        check_setting("smoothing", self.smoothing, least=0)

    def count_frames(self, seconds: float) -> int:
        """Number of frames for a sound: at least one.

        Raises:
            ValueError: More than `MAX_FRAMES`.
        """
        if self.frames is not None:
            return self.frames
        frames = max(round(seconds * self.fps), 1)
        if frames > MAX_FRAMES:
            raise ValueError(f"{seconds:g} s at {self.fps:g} fps are {frames} frames; at most {MAX_FRAMES} are allowed")
        return frames


def schedule(
    encoder: AudioEncoder,
    waveform: Waveform,
    sample_rate: int,
    settings: ScheduleSettings,
    *,
    batch_size: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> AudioEmbeddings:
    """Encode the sound around each frame: one row of tokens a frame.

    Frame i stands at (i + 0.5) / fps seconds; the window around it is moved where it would reach beyond the sound.

    Args:
        encoder: Encoder that is used.
        waveform: One clip, [T] or [C, T] float in -1..1.
        sample_rate: Sample rate in Hz.
        settings: Frames, keyframes, window and smoothing.
        batch_size: As of `AudioEncoder.encode`.
        on_step: As of `AudioEncoder.encode`.

    Returns:
        AudioEmbeddings with a row for each frame, all of clip 0, their `starts` the times of the frames.

    Raises:
        ValueError: Several clips, too many frames, or as `AudioEncoder.encode`.
    """
    clips = read_clips((waveform, sample_rate))
    if len(clips) != 1:
        raise ValueError(f"a schedule is made of one clip, not of a batch of {len(clips)}")
    (clip,) = clips
    fps, window = settings.fps, settings.window
    frames = settings.count_frames(len(clip) / SAMPLE_RATE)
    length = encoder.config.window.seconds if window is None else float(window)
    keys = sorted({*range(0, frames, settings.every), frames - 1})
    size = min(max(round(length * SAMPLE_RATE), MIN_SAMPLES), len(clip))
    latest = len(clip) - size
    starts = [min(max(round((key + 0.5) / fps * SAMPLE_RATE) - size // 2, 0), latest) for key in keys]
    distinct = sorted(set(starts))
    heard = encoder.encode(
        [clip[start : start + size] for start in distinct],
        SAMPLE_RATE,
        window=window,
        batch_size=batch_size,
        on_step=on_step,
    ).averaged()
    rows = torch.tensor([distinct.index(start) for start in starts])
    left, right, share = (part.to(heard.tokens.device) for part in _between(keys, frames))

    def course(values: Tensor) -> Tensor:
        """[windows, ...] -> [frames, ...]"""
        keyed = values[rows.to(values.device)]
        weights = share.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
        return _smooth(torch.lerp(keyed[left], keyed[right], weights), settings.smoothing * fps)

    return replace(
        heard,
        tokens=course(heard.tokens),
        pooled=None if heard.pooled is None else course(heard.pooled),
        clips=(0,) * frames,
        starts=tuple(i / fps for i in range(frames)),
        durations=(1 / fps,) * frames,
    )


def loudness(waveform: Tensor, *, fps: float, frames: int) -> Tensor:
    """How loud a sound is at each frame: root mean square over the frame's time, 1 at the loudest: [T] -> [frames].

    Args:
        waveform: [T] float, mono, 16 kHz. Frames beyond its end are 0, as silence is.
    """
    edges = [round(i / fps * SAMPLE_RATE) for i in range(frames + 1)]
    levels = [
        waveform[a:b].float().square().mean().sqrt() if a < len(waveform) else torch.tensor(0.0)
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    return _to_one(torch.stack([level.cpu() for level in levels]))


def onsets(waveform: Tensor, *, fps: float, frames: int) -> Tensor:
    """Where sounds begin: the rise of the log-mel spectrum at each frame, 1 at the sharpest: [T] -> [frames].

    Spectral flux (Bello et al. 2005, "A tutorial on onset detection in music signals"): the sum over mel bins of what
    each rises by within 10 ms, of what is less than 8 nats below the loudest; the highest within a frame's time.

    Args:
        waveform: [T] float, mono, 16 kHz. Frames beyond its end are 0.
    """
    whole = F.pad(waveform.float().cpu(), (FRAME_HOP, max(MIN_SAMPLES - len(waveform), 0)))
    mel = mel_frames(whole[None])[0].float()
    mel = mel.clamp(min=float(mel.max()) - _FLUX_FLOOR)
    rise = F.pad(mel.diff(dim=0).clamp(min=0).sum(1), (1, 0))
    steps = torch.arange(len(rise)) / FRAMES_PER_SECOND
    frame = (steps * fps).long()
    curve = torch.zeros(frames)
    inside = frame < frames
    return _to_one(curve.scatter_reduce(0, frame[inside], rise[inside], "amax"))


def keyframes(curve: Tensor) -> str:
    """A curve as text, `0:(0.10), 1:(0.25), ...`: what nodes that take values by frame read; [frames] -> text."""
    return ", ".join(f"{frame}:({value:.3f})" for frame, value in enumerate(curve.tolist()))


def _between(keys: list[int], frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each frame the key before it, the next one, and how far it is on the way; each [frames]."""
    places = torch.arange(frames)
    marks = torch.tensor(keys)
    left = torch.searchsorted(marks, places, right=True) - 1
    right = (left + 1).clamp(max=len(keys) - 1)
    way = (marks[right] - marks[left]).clamp(min=1)
    return left, right, (places - marks[left]) / way


def _smooth(values: Tensor, deviation: float) -> Tensor:
    """Averaged over the first dimension with a Gaussian; beyond the ends the first and the last go on."""
    if deviation == 0:
        return values
    reach = min(math.ceil(3 * deviation), len(values))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=values.device) / deviation).square())
    kernel = (kernel / kernel.sum()).to(values.dtype)
    columns = F.pad(values.flatten(1).T[:, None], (reach, reach), mode="replicate")  # [N * D, 1, frames + 2 reach]
    return F.conv1d(columns, kernel[None, None])[:, 0].T.reshape(values.shape)


def _to_one(curve: Tensor) -> Tensor:
    """Divided by its highest value; zeros stay."""
    return curve / curve.max().clamp(min=1e-12)
