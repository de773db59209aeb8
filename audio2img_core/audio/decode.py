"""Decoding the sound of an open file with PyAV: seeking, and slices that are exact to the sample."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from ..checks import MAX_RATE, MIN_RATE
from .container import ALLOWED, duration_of
from .excerpt import MAX_SECONDS_VARIABLE, Excerpt

logger = logging.getLogger(__name__)

_VALUES_PER_SECOND = 2 * 48_000  # with more channels or a higher rate, as many fewer seconds: memory is what counts

_PREROLL = (0.5, 5.0, 30.0)  # seconds to seek before the start, tried in turn: codecs need time to settle
SEEK_FROM = 2.0  # seconds; nearer to the beginning, decoding is as cheap as seeking and simpler
_BLOCK_SECONDS = 10  # of sound that is handed on at once
_HEAD_FRAMES = 16  # frames that tell where a file's clock starts and how long its frames are
_CLOCK_FRAMES = 32  # frames whose rounded timestamps are averaged after a seek
_MOST_PLANES = 7  # arrays of one channel each; of more, PyAV reads beyond the end of FFmpeg's list of them (a crash)
_VORBIS_GRID = 64  # every Vorbis block pair overlaps in a multiple of this (smallest usual block 256, / 4)
# Formats whose timestamps after a seek are exact, with these codecs ("" = any); others, raw AC-3 and DTS or
# ADPCM in WAV, say, are sought by guessing from the bit rate, and are decoded from their beginning here.
_SEEKABLE = {
    **dict.fromkeys(("wav", "w64", "aiff", "au", "caf"), ("pcm_",)),
    **dict.fromkeys(("flac", "mp3", "aac", "mov", "matroska", "mpegts", "flv", "avi", "asf", "wv", "tta"), ("",)),
    "ogg": ("vorbis", "opus", "libopus", "flac"),
}
# Formats whose header tells the length; elsewhere FFmpeg's duration may be a guess from the bit rate.
_ANNOUNCING = {"aiff", "au", "flac", "ape", "wv", "tta", "mov", "matroska", "mp3"}


class Reader:
    """One open container and its best audio stream; positions are samples since the first decoded one."""

    def __init__(self, container: InputContainer, stream: av.AudioStream, name: str) -> None:
        self.container, self.stream, self.name = container, stream, name
        self.format = container.format.name.split(",")[0]
        self.damaged = 0  # packets that could not be decoded
        frames = self._frames()
        head = list(itertools.islice(frames, _HEAD_FRAMES))
        if not head:
            raise ValueError(f"{name} holds no sound that can be decoded; allowed: {ALLOWED}")
        self.frames = itertools.chain(head, frames)
        self.rate, self.channels = head[0].sample_rate, head[0].layout.nb_channels
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise ValueError(f"{name} announces {self.rate} samples a second; allowed: {MIN_RATE} to {MAX_RATE}")
        self.tick = float((stream.time_base or Fraction(1, self.rate)) * self.rate)  # samples per unit of a timestamp
        self.zero = _mean_offset(head, 0.0, self.tick)
        # Frames start on a grid; coarse timestamps (1 ms in Matroska) are rounded to it.
        self.grid = math.gcd(*(frame.samples for frame in head[1:-1]))
        if stream.codec_context.name == "vorbis":
            self.grid = math.gcd(self.grid, _VORBIS_GRID)
        self.grid_start = head[0].samples

    def read(
        self,
        excerpt: Excerpt,
        *,
        seeking: bool,
        mono: bool = False,
    ) -> Iterator[np.ndarray] | None:
        """Yield the samples of an excerpt in blocks [C, T] float32; return None where seeking does not work.

        Sound beyond the excerpt's limit is refused: a file of a few kilobytes can hold days of silence.

        Args:
            excerpt: the part to read.
            seeking: seek to its start instead of decoding all that comes before.
            mono: mix the channels to one, C = 1, as they come.
        """
        self.mono = mono
        start, duration = excerpt.start, excerpt.duration
        self.most = excerpt.limit * min(1.0, _VALUES_PER_SECOND / (self.rate * (1 if mono else self.channels)))
        first = round(start * self.rate)
        stop = None if duration is None else first + max(1, round(duration * self.rate))
        if not seeking:
            return self._blocks(self.frames, 0, first, stop)
        codec = self.stream.codec_context.name
        if not codec.startswith(_SEEKABLE.get(self.format, ())):
            return None
        length = self.container.duration
        latest = start if length is None else min(start, length / av.time_base)
        for preroll in _PREROLL:
            frames, position = self._seek(max(latest - preroll, 0.0))
            if position is not None and position <= first:
                return self._blocks(frames, position, first, stop)
        return None

    def _seek(self, seconds: float) -> tuple[Iterator[av.AudioFrame], int | None]:
        """Return the frames from about `seconds` on and the position of the first, or None where it is unknown."""
        # Matroska indexes only the pictures of a film: by the sound it would read all from the beginning.
        cover = Disposition.attached_pic
        moving = [s for s in self.container.streams.video if not s.disposition & cover]
        stream = moving[0] if moving and self.format == "matroska" else self.stream
        zero = self.zero / self.rate
        try:
            self.container.seek(
                math.floor((seconds + zero) / (stream.time_base or Fraction(1, self.rate))), stream=stream
            )
            self.damaged = 0
            frames = itertools.dropwhile(lambda frame: frame.pts is None, self._frames())
            known = list(itertools.islice(frames, _CLOCK_FRAMES))
        except FFmpegError:
            return iter(()), None
        # Ogg numbers the first page after a seek wrongly: what comes before a jump is not to be trusted.
        jump = max((i for i in range(1, len(known)) if not self._follows(*known[i - 1 : i + 1])), default=0)
        known = known[jump:]
        if not known:
            return iter(()), None
        self.damaged = 0  # the first packets after a seek may lack what they refer to
        position = _mean_offset(known, self.zero, self.tick)
        if self.tick > 1 and self.grid > 1:
            snapped = round((position - self.grid_start) / self.grid) * self.grid + self.grid_start
            position = snapped if abs(snapped - position) <= self.tick else position
        return itertools.chain(known, frames), round(position)

    def _follows(self, before: av.AudioFrame, after: av.AudioFrame) -> bool:
        if after.pts is None:
            return True
        gap = None if before.pts is None else (after.pts - before.pts) * self.tick - before.samples
        return gap is not None and abs(gap) <= max(1.0, 2 * self.tick)

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Yield decoded frames from the current position; count and skip packets that cannot be decoded."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:
                self.damaged += 1
                packet = None
            if packet is None:
                return
            try:
                frames = packet.decode()
            except FFmpegError:
                self.damaged += 1
                continue
            yield from frames

    def _blocks(
        self, frames: Iterator[av.AudioFrame], position: int, first: int, stop: int | None
    ) -> Iterator[np.ndarray]:
        """Yield samples `first` to `stop` of frames that begin at `position`, in blocks [C, T] float32."""
        parts: list[np.ndarray] = []
        taken, waiting, ended = 0, 0, True
        for frame in frames:
            if frame.sample_rate != self.rate:
                raise ValueError(
                    f"{self.name} changes its sample rate from {self.rate} to {frame.sample_rate} Hz"
                    f" at {position / self.rate:.2f} s; allowed: one rate in a file"
                )
            end = position + frame.samples
            if end > first:
                left, right = max(first - position, 0), frame.samples if stop is None else stop - position
                samples = _to_float(frame, self.channels)[:, left:right]
                parts.append(samples.mean(axis=0, keepdims=True, dtype=np.float32) if self.mono else samples)
                taken, waiting = taken + samples.shape[1], waiting + samples.shape[1]
                if taken > self.most * self.rate:
                    raise ValueError(self._too_long())
                if waiting >= _BLOCK_SECONDS * self.rate:
                    yield np.concatenate(parts, axis=1)
                    parts, waiting = [], 0
            position = end
            if stop is not None and position >= stop:
                ended = False
                break
        self._warn_if_cut(position / self.rate, ended)
        if parts:
            yield np.concatenate(parts, axis=1)
        elif not taken:
            raise ValueError(
                f"start {first / self.rate:g} s is at or past the end of {self.name}, "
                f"which is {position / self.rate:.3f} s long"
            )

    def _too_long(self) -> str:
        kind = "" if self.mono else f" for {self.channels} channel(s) at {self.rate} Hz"
        return (
            f"{self.name} is longer than the limit of {self.most:g} s{kind}; read a part with start and duration, "
            f"or raise max_seconds (environment: {MAX_SECONDS_VARIABLE})"
        )

    def _warn_if_cut(self, seconds: float, ended: bool) -> None:
        announced = self._announced_seconds() if ended else None
        # Codecs add and drop a few frames at both ends, and headers count them or not.
        tolerance = 0.0 if self.damaged else 0.05 + 4096 / self.rate
        if announced is not None and announced - seconds > tolerance:
            logger.warning("%s: only %.2f s of the announced %.2f s could be decoded", self.name, seconds, announced)
        elif self.damaged:
            logger.warning("%s: %d damaged packet(s) left out; decoded up to %.2f s", self.name, self.damaged, seconds)

    def _announced_seconds(self) -> float | None:
        """Return the container's duration; None where it is unknown or a guess from the bit rate or file size."""
        # FFmpeg gives an MP3 a start time only where it found the tag with the encoder's delay and frame count.
        if self.format not in _ANNOUNCING or (self.format == "mp3" and not self.stream.start_time):
            return None
        if self.stream.duration is None and len(self.container.streams) > 1:
            return None  # in Matroska, the container's duration is that of its longest stream
        return duration_of(self.container, self.stream)


def _mean_offset(frames: list[av.AudioFrame], zero: float, tick: float) -> float:
    """Return the position of the first frame in samples, from the timestamps of all: the mean undoes rounding."""
    sizes = itertools.accumulate((frame.samples for frame in frames), initial=0)
    offsets = [f.pts * tick - zero - size for f, size in zip(frames, sizes, strict=False) if f.pts is not None]
    return sum(offsets) / len(offsets) if offsets else 0.0


def _to_float(frame: av.AudioFrame, channels: int) -> np.ndarray:
    """Convert a frame of any format to [C, T] float32 in -1..1; one with other channels becomes their mean."""
    many = frame.format.is_planar and frame.layout.nb_channels > _MOST_PLANES
    if many or frame.format.name.startswith("s64"):  # the second has no to_ndarray
        resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
        frame = resampler.resample(frame)[0]
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    with np.errstate(over="ignore"):  # beyond float32 = infinite, which is refused later
        if samples.dtype == np.uint8:
            samples = (samples.astype(np.float32) - 128) / 128
        elif samples.dtype.kind == "i":
            samples = samples.astype(np.float32) / 2.0 ** (8 * samples.dtype.itemsize - 1)
        samples = samples.astype(np.float32, copy=False)
    if len(samples) != channels:
        samples = np.broadcast_to(samples.mean(axis=0, dtype=np.float32), (channels, samples.shape[1]))
    return samples
