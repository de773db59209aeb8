"""What can happen to a sound between its source and a file: speed, equaliser, room, noise, codec. Pure functions.

Waveforms are [T] float32, mono, 16 kHz; every random number comes from the generator that is handed in, on the CPU.
"""

from __future__ import annotations

import io
import math

import av
import numpy as np
import torch
from torch import Tensor

from audio2img_core.audio.io import SAMPLE_RATE

_BANDS = 6  # of the equaliser: about one and a half octaves each
_LOWEST = 60.0  # Hz; below, the first band's gain holds
_REVERBERATION = (0.1, 0.9)  # seconds in which a room's echo falls by 60 dB: a small room to a hall
_BIT_RATES = (16_000, 24_000, 32_000, 48_000)  # of MP3 in mono at 16 kHz: from poor to fair

_STEP, _FINE = 512, 16  # samples: lengths of Fourier transforms are multiples, where the length matters of the second


def change_speed(waveform: Tensor, factor: float) -> Tensor:
    """Play `factor` times as fast, higher by the same factor: [T] -> [round(T / factor)].

    Resampled in the frequency domain, so that nothing is folded back below the new Nyquist frequency. The factor is
    rounded so that the transforms are quick, by less than a thousandth from a second of sound on.

    Raises:
        ValueError: a factor that is not above 0.
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"the speed's factor must be above 0, not {factor!r}")
    length = _fast_length(len(waveform))
    size = max(round(length / factor / _FINE), 1) * _FINE
    spectrum = torch.fft.rfft(waveform, n=length)
    kept = torch.zeros(size // 2 + 1, dtype=spectrum.dtype)
    count = min(len(kept), len(spectrum))
    kept[:count] = spectrum[:count]
    return torch.fft.irfft(kept, n=size)[: max(round(len(waveform) / factor), 1)] * (size / length)


def equalize(waveform: Tensor, generator: torch.Generator, *, max_db: float) -> Tensor:
    """A smooth random equaliser: a gain within -max_db..max_db decibels for each of six bands, straight lines between
    them over the logarithm of frequency; [T] -> [T]."""
    gains = (2 * torch.rand(_BANDS, generator=generator) - 1) * max_db
    length = _fast_length(len(waveform))
    spectrum = torch.fft.rfft(waveform, n=length)
    hertz = torch.linspace(0, SAMPLE_RATE / 2, len(spectrum)).clamp(min=_LOWEST)
    place = (hertz / _LOWEST).log() / math.log(SAMPLE_RATE / 2 / _LOWEST) * (_BANDS - 1)
    left = place.long().clamp(max=_BANDS - 2)
    share = place - left
    curve = gains[left] * (1 - share) + gains[left + 1] * share
    return torch.fft.irfft(spectrum * 10 ** (curve / 20), n=length)[: len(waveform)]


def reverberate(waveform: Tensor, generator: torch.Generator) -> Tensor:
    """The sound in a random room: [T] -> [T], its echo beyond the end cut off.

    The room's answer is the sound itself and a tail of noise that decays exponentially, up to as strong as the sound
    (Moorer 1979, "About this reverberation business"): no real room, but every one is another.
    """
    draws = torch.rand(2, generator=generator)
    low, high = _REVERBERATION
    seconds = low * (high / low) ** float(draws[0])
    size = round(seconds * SAMPLE_RATE)
    decay = 10 ** (-3 * torch.arange(size) / size)
    tail = torch.randn(size, generator=generator) * decay
    answer = float(draws[1]) * tail / tail.norm()
    answer[0] += 1.0
    length = _fast_length(len(waveform) + size - 1)
    wet = torch.fft.irfft(torch.fft.rfft(waveform, n=length) * torch.fft.rfft(answer, n=length), n=length)
    return _fit(wet[: len(waveform)])


def add_noise(waveform: Tensor, generator: torch.Generator, *, min_snr_db: float, max_snr_db: float = 40.0) -> Tensor:
    """The sound over noise of a random colour: [T] -> [T].

    The signal-to-noise ratio is uniform in min_snr_db..max_snr_db decibels, the spectrum falls with 1 / f^a, a
    uniform in 0..2, from white to brown.
    """
    draws = torch.rand(2, generator=generator)
    length = _fast_length(len(waveform))
    spectrum = torch.fft.rfft(torch.randn(length, generator=generator))
    slope = torch.arange(len(spectrum)).clamp(min=1).float() ** -float(draws[0])  # amplitude: half of the power's a
    noise = torch.fft.irfft(spectrum * slope, n=length)[: len(waveform)]
    snr = min_snr_db + (max_snr_db - min_snr_db) * float(draws[1])
    scale = waveform.norm() / noise.norm().clamp(min=1e-8) * 10 ** (-snr / 20)
    return _fit(waveform + scale * noise)


def compress(waveform: Tensor, generator: torch.Generator) -> Tensor:
    """Through an MP3 encoder of a random low bit rate and back: [T] -> [T]."""
    rate = _BIT_RATES[int(torch.randint(len(_BIT_RATES), (), generator=generator))]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = rate
        frame = av.AudioFrame.from_ndarray(waveform.clamp(-1, 1).numpy()[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        parts = [frame.to_ndarray().astype(np.float32).mean(0) for frame in container.decode(audio=0)]
    decoded = torch.from_numpy(np.concatenate(parts))[: len(waveform)]
    return torch.nn.functional.pad(decoded, (0, len(waveform) - len(decoded)))


def _fast_length(length: int) -> int:
    """The next multiple of a power of two: Fourier transforms of lengths with large prime factors take far longer."""
    return -(-length // _STEP) * _STEP


def _fit(waveform: Tensor) -> Tensor:
    """Scaled back where it leaves -1..1."""
    return waveform / waveform.abs().max().clamp(min=1.0)
