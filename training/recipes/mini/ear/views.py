"""What is trained on: crops of the packed sounds, mixed and disturbed at random, all on one device.

The views of a step depend on the seed and the step's number alone, so a run resumes with the views that it would have
had.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from .store import PEAK, loud_starts
from .teacher import RATE

_TAIL = 240  # samples: the last mel frame of a window of n x 10 ms needs 15 ms more
_KNOTS = 8  # of a random equaliser, spread over the logarithm of frequency


class Batch(NamedTuple):
    """Views of one step."""

    full: Tensor  # [B, 2 T] float32 at 32 kHz, for the teacher; peak 0.9
    narrow: Tensor  # [B, T] the same at 16 kHz, for the student; whole frames of 10 ms
    rows: Tensor  # [B, 2] which rows of the index sound in it; -1 = no second one
    level: Tensor  # [B] how loud the second is to the first, as RMS; 0 = there is none


class Views:
    """Draws batches of views.

    Args:
        audio: [N] int16, all samples of the store, on the device that the views shall be on.
        rows: of the index, those to draw from.
        seconds: length of a view. seed: of all that is random.
        augment: how often views are mixed and disturbed, from 0 = never to 1.
    """

    def __init__(
        self, audio: Tensor, rows: list[dict], *, seconds: float = 4.0, augment: float = 1.0, seed: int = 0
    ) -> None:
        if not rows:
            raise ValueError("no sounds to train on: the store has no row of this split")
        self.audio, self.seed, self.device, self.augment = audio, seed, audio.device, augment
        self.narrow_samples = round(seconds * 100) * 160 + _TAIL
        self.samples = 2 * self.narrow_samples
        self.fft = 2 ** math.ceil(math.log2(self.samples))
        bins = self.fft // 2 + 1
        starts = loud_starts(audio.cpu() if audio.is_cuda else audio, rows, seconds)
        self.starts = torch.cat(starts)
        self.first = torch.tensor([0, *(len(each) for each in starts[:-1])]).cumsum(0)
        self.counts = torch.tensor([len(each) for each in starts])
        self.start = torch.tensor([row["start"] for row in rows])
        self.length = torch.tensor([row["samples"] for row in rows])
        self.weights = torch.tensor(balanced(rows))
        log_hz = torch.linspace(1, bins, bins, device=self.device).log()
        # Knots from 80 Hz to 16 kHz, 7.6 octaves.
        position = (1 + (log_hz - log_hz[-1]) / (7.6 * math.log(2))).clamp(min=0) * (_KNOTS - 1)
        self.knot = position.floor().clamp(max=_KNOTS - 2).long()
        self.between = position - self.knot
        self.hz = torch.arange(bins, device=self.device) * (RATE / self.fft)
        self.narrow_band = ((8000.0 - self.hz[: bins // 2 + 1]) / 300.0).clamp(0, 1)

    def batch(self, step: int, size: int) -> Batch:
        """The views of a step, `size` of them."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        noise = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + step)

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.rand(shape or (size,), generator=generator) * (high - low) + low

        def on(*tensors: Tensor) -> tuple[Tensor, ...]:
            return tuple(tensor.to(self.device, torch.float32)[:, None] for tensor in tensors)

        chosen = torch.multinomial(self.weights, 2 * size, replacement=True, generator=generator).view(2, size)
        one, two = (self._crops(rows, generator) for rows in chosen)
        mixed = uniform(0, 1) < 0.5 * self.augment
        level = torch.where(mixed, 10 ** (torch.randn(size, generator=generator) * 5 / 20), 0.0)
        sound = _unit(one) + on(level)[0] * _unit(two)

        spectrum = torch.fft.rfft(sound, n=self.fft)
        # An equaliser, sometimes a narrow band, sometimes a room.
        decibels = (
            torch.randn(size, _KNOTS, generator=generator)
            * torch.where(uniform(0, 1) < 0.6 * self.augment, 5.0, 0.0)[:, None]
        )
        low, high = (uniform(0, 1) < 0.12 * self.augment for _ in range(2))
        cut = torch.where(low, 10 ** uniform(3.3, 4.0), 1e6), torch.where(high, 10 ** uniform(1.9, 2.7), 1e-3)
        curve = decibels.to(self.device)
        curve = curve[:, self.knot] * (1 - self.between) + curve[:, self.knot + 1] * self.between
        below, above = on(*cut)
        gain = 10 ** (curve / 20) / (1 + (self.hz / below) ** 4) * (self.hz**2 / (self.hz**2 + above**2))
        room = (uniform(0, 1) < 0.15 * self.augment).nonzero()[:, 0]
        if len(room):
            spectrum[room.to(self.device)] *= self._rooms(uniform(0.15, 0.9, len(room)), noise)
        # Noise, white to brown, in three views of ten.
        power = (spectrum.abs() * gain).square().mean(1, keepdim=True).sqrt()
        share = torch.where(uniform(0, 1) < 0.3 * self.augment, 10 ** (-uniform(5, 40) / 20), 0.0)
        slope, share = on(uniform(0, 1), share)
        hiss = torch.view_as_complex(torch.randn(size, len(self.hz), 2, generator=noise, device=self.device))
        hiss *= (self.hz + 50.0) ** -slope
        hiss *= power * share / hiss.abs().square().mean(1, keepdim=True).sqrt()
        spectrum = spectrum * gain + hiss

        full = torch.fft.irfft(spectrum, n=self.fft)[:, : self.samples]
        scale = PEAK / full.abs().amax(1, keepdim=True).clamp_min(1e-9)
        lower = spectrum[:, : self.fft // 4 + 1] * self.narrow_band
        narrow = torch.fft.irfft(lower, n=self.fft // 2)[:, : self.narrow_samples] / 2
        second = torch.where(mixed, chosen[1], -1)
        return Batch(full * scale, narrow * scale, torch.stack([chosen[0], second], 1), level)

    def _crops(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A crop of each row, [B, samples] float32. Short sounds are repeated, or stand somewhere in silence."""
        size = len(rows)

        def uniform() -> Tensor:
            return torch.rand(size, generator=generator, dtype=torch.float64)

        pick = self.first[rows] + (uniform() * self.counts[rows]).long().clamp(max=self.counts[rows] - 1)
        offset = self.starts[pick]
        speed = torch.where(uniform() < 0.3 * self.augment, 2 ** ((uniform() - 0.5) * 0.5), 1.0)
        wanted = (self.samples * speed).ceil()
        length = torch.minimum((self.length[rows] - offset).double(), wanted)
        # Some long sounds are cut short, as the last window of a clip is.
        length = torch.where(uniform() < 0.15 * self.augment, length * (0.3 + 0.7 * uniform()), length).clamp(min=64)
        stands = (length < wanted) & (uniform() < 0.3)
        shift = torch.where(stands, -uniform() * (wanted - length), uniform() * length)
        shift = torch.where(length < wanted, shift, 0.0)
        base, length, speed, shift = (
            each.to(self.device)[:, None] for each in (self.start[rows] + offset, length.float(), speed.float(), shift)
        )
        at = torch.arange(self.samples, device=self.device) * speed + shift.float()
        inside = (at >= 0) & (at < length) | ~stands.to(self.device)[:, None]
        at = at % length
        whole = at.floor()
        fraction = at - whole
        last = (length - 1).long()
        index = base + torch.minimum(whole.long().clamp(min=0), last)
        following = torch.minimum(index + 1, base + last)
        left, right = self.audio[index].float(), self.audio[following].float()
        return torch.where(inside, torch.lerp(left, right, fraction), 0.0) / 32768

    def _rooms(self, seconds: Tensor, noise: torch.Generator) -> Tensor:
        """Spectra [n, bins] of rooms: the sound itself and a tail of noise that falls by 60 dB in so many seconds."""
        time = torch.arange(RATE, device=self.device) / RATE
        tail = torch.randn(len(seconds), RATE, generator=noise, device=self.device)
        tail *= torch.exp(-6.9 * time / seconds.to(self.device, torch.float32)[:, None])
        tail *= 0.7 / tail.square().sum(1, keepdim=True).sqrt()
        tail[:, 0] += 1.0
        return torch.fft.rfft(tail, n=self.fft)


def balanced(rows: list[dict]) -> list[float]:
    """How often each row is drawn: kinds by the square root of their seconds, unlabelled sounds by their seconds.

    A clip counts at most 10 s and at least 1 s, so that short sounds are heard as well.
    """
    seconds = [min(max(row["samples"] / RATE, 1.0), 10.0) for row in rows]
    total: dict[str | None, float] = defaultdict(float)
    for row, each in zip(rows, seconds, strict=True):
        total[row["kind"]] += each
    labelled = [total[kind] for kind in total if kind is not None]
    usual = sum(labelled) / len(labelled) if labelled else 1.0
    return [
        each * (1.0 if row["kind"] is None else (usual / total[row["kind"]]) ** 0.5)
        for row, each in zip(rows, seconds, strict=True)
    ]


def _unit(sound: Tensor) -> Tensor:
    return sound / sound.square().mean(1, keepdim=True).sqrt().clamp_min(1e-5)
