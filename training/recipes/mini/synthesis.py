"""Sounds made from their physics where it is simple. All of them are marked as synthesised in the manifest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from audio2img_core.audio.io import SAMPLE_RATE

from .soundfonts import seeded


def coloured(size: int, slope: float, rng: np.random.Generator, low: float = 30, high: float = 7800) -> np.ndarray:
    """Noise [size] with a spectrum that falls by `slope` (amplitude ~ frequency ** -slope) between two frequencies."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    gain = np.maximum(frequency, 20.0) ** -slope
    gain = gain / (1 + (low / np.maximum(frequency, 1)) ** 4) / (1 + (frequency / high) ** 4)
    noise = np.fft.irfft(spectrum * gain, size)
    return noise / noise.std()


def wander(size: int, every: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random curve [size] of about zero mean and unit deviation that turns every so many seconds."""
    at = np.arange(size) / (every * SAMPLE_RATE)
    points = rng.standard_normal(int(at[-1]) + 2)
    left = at.astype(int)
    blend = 0.5 - 0.5 * np.cos(np.pi * (at - left))
    return points[left] * (1 - blend) + points[left + 1] * blend


def rain(rng: np.random.Generator) -> np.ndarray:
    """A bed of noise with many short drops on it: [T]."""
    size = int(rng.uniform(3, 6) * SAMPLE_RATE)
    sound = coloured(size, rng.uniform(0.0, 0.5), rng, low=rng.uniform(200, 900)) * rng.uniform(0.3, 1.0)
    sound *= 1 + 0.15 * wander(size, 1.0, rng)
    for _ in range(int(size / SAMPLE_RATE * rng.uniform(20, 400))):
        start, length = int(rng.integers(size - 400)), int(rng.integers(30, 400))
        time = np.arange(length) / SAMPLE_RATE
        tone = np.sin(2 * np.pi * rng.uniform(800, 6000) * time) if rng.random() < 0.5 else rng.standard_normal(length)
        sound[start : start + length] += rng.exponential(0.8) * tone * np.exp(-time * rng.uniform(200, 1500))
    return sound


def wind(rng: np.random.Generator) -> np.ndarray:
    """Noise whose loudness and resonance wander, as around an edge: [T]."""
    size = int(rng.uniform(3, 7) * SAMPLE_RATE)
    sound = coloured(size, rng.uniform(0.7, 1.3), rng, low=60, high=rng.uniform(700, 4000))
    gust = np.exp(0.6 * wander(size, rng.uniform(0.4, 1.2), rng))
    whistle = rng.uniform(300, 900) * np.exp(0.25 * wander(size, rng.uniform(0.5, 1.5), rng))
    carrier = np.sin(2 * np.pi * np.cumsum(whistle) / SAMPLE_RATE)
    narrow = coloured(size, 1.5, rng, low=5, high=60)
    return gust * (sound + rng.uniform(0, 1.2) * gust * carrier * narrow)


def siren(rng: np.random.Generator) -> np.ndarray:
    """A wailing, yelping or two-tone siren with harmonics: [T]."""
    size = int(rng.uniform(3, 6) * SAMPLE_RATE)
    time = np.arange(size) / SAMPLE_RATE
    low, kind = rng.uniform(350, 700), rng.integers(3)
    high = low * rng.uniform(1.35, 2.4)
    if kind == 2:
        pitch = np.where((time * rng.uniform(0.8, 1.6)) % 1 < 0.5, low, low * rng.uniform(1.2, 1.5))
    else:
        rate = rng.uniform(0.15, 0.5) if kind == 0 else rng.uniform(2, 4.5)
        sweep = 0.5 - 0.5 * np.cos(2 * np.pi * (rate * time + rng.random()))
        pitch = low * (high / low) ** sweep
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    fall = rng.uniform(0.6, 1.6)
    harmonics = range(1, 9 if rng.random() < 0.7 else 3)
    sound = sum(np.sin(number * phase + rng.uniform(0, 6.28)) / number**fall for number in harmonics)
    return sound + rng.uniform(0.0, 0.05) * coloured(size, 0.8, rng)


def horn(rng: np.random.Generator) -> np.ndarray:
    """A ship's horn: one or two low tones, rich in harmonics, that swell and stop, with an echo: [T]."""
    size = int(rng.uniform(3, 6) * SAMPLE_RATE)
    time = np.arange(size) / SAMPLE_RATE
    low = rng.uniform(70, 220)
    tones = [low] if rng.random() < 0.5 else [low, low * rng.choice([1.25, 1.335, 1.5])]
    waver = 1 + 0.002 * wander(size, 0.3, rng)
    sound = np.zeros(size)
    for tone in tones:
        phase = 2 * np.pi * np.cumsum(tone * waver) / SAMPLE_RATE
        fall = rng.uniform(0.5, 1.2)
        bright = rng.uniform(600, 2500)
        for number in range(1, 30):
            gain = number**-fall / (1 + (number * tone / bright) ** 2)
            sound += gain * np.sin(number * phase + rng.uniform(0, 6.28))
    sound *= 1 + 0.1 * coloured(size, 0.3, rng, low=100, high=2000)
    length = rng.uniform(1.2, size / SAMPLE_RATE - 0.5)
    envelope = np.clip(time / rng.uniform(0.05, 0.4), 0, 1) * np.clip((length - time) / rng.uniform(0.05, 0.3), 0, 1)
    sound = sound * envelope
    delay, echo = int(rng.uniform(0.15, 0.5) * SAMPLE_RATE), rng.uniform(0.05, 0.35)
    sound[delay:] += echo * sound[:-delay]
    return sound / np.abs(sound).max() + rng.uniform(0.001, 0.02) * coloured(size, 0.7, rng)


def clock(rng: np.random.Generator) -> np.ndarray:
    """Ticks at an even pace, tick and tock a little different, on a quiet case resonance: [T]."""
    size = int(rng.uniform(3, 6) * SAMPLE_RATE)
    sound = 0.002 * coloured(size, 0.6, rng)
    every = float(rng.choice([1.0, 0.5, 0.25, 0.2])) * rng.uniform(0.95, 1.05)
    ticks = [
        (rng.uniform(1500, 6000, 3), rng.uniform(150, 900), rng.uniform(0.5, 1.0), rng.uniform(200, 900))
        for _ in range(2)
    ]
    for index, start in enumerate(np.arange(0.05, size / SAMPLE_RATE - 0.15, every)):
        pitches, decay, loudness, body = ticks[index % 2]
        time = np.arange(int(0.12 * SAMPLE_RATE)) / SAMPLE_RATE
        tick = sum(np.sin(2 * np.pi * pitch * time) for pitch in pitches) * np.exp(-time * decay)
        tick += 0.5 * np.sin(2 * np.pi * body * time) * np.exp(-time * decay / 4)
        tick += rng.standard_normal(len(time)) * np.exp(-time * 2000)
        at = int(start * SAMPLE_RATE)
        sound[at : at + len(time)] += loudness * tick
    return sound


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "rain": rain,
    "wind": wind,
    "siren": siren,
    "clock": clock,
    "horn": horn,
}


def make(kind: str, number: int) -> Tensor:
    """The synthesised sound of a kind and number: [T] float32 at 16 kHz, peak 0.8.

    Raises:
        ValueError: no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"no synthesis is called {kind!r}; allowed: {', '.join(KINDS)}")
    sound = KINDS[kind](seeded("synthesis", kind, number))
    return torch.from_numpy(0.8 * sound / np.abs(sound).max()).float()
