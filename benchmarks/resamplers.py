"""How near FFmpeg's and soxr's resampling come to torchaudio's: `python benchmarks/resamplers.py`.

The reference is torchaudio's documented formula (`torchaudio.functional.resample`, `sinc_interp_kaiser`) in float64
with FFmpeg's filter: `lowpass_filter_width` 16, `rolloff` 0.97, `beta` 9. For each rate to 16 kHz the table shows the
level of a sine in dB at shares of the lower Nyquist frequency, the RMS difference from the reference in white noise
(dB below the noise), the largest difference in a chirp to 0.95 of the Nyquist frequency, what is left of a sine at 1.1
of it, and hours of sound resampled in a second of processor time. soxr is skipped where it is not installed.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from audio2img_core.audio.resample import resample  # noqa: E402
from benchmarks.paired import machine, write_result  # noqa: E402

RATE = 16_000
RATES = (22_050, 44_100, 48_000, 96_000, 8_000)
SHARES = (0.5, 0.9, 0.95, 0.97, 0.99)
SECONDS, EDGE = 4.0, 400  # of each sound; samples left out at either end
HALF_TAPS, ROLLOFF, BETA = 16, 0.97, 9.0

Resampler = Callable[[np.ndarray, int], np.ndarray]


def by_torchaudio(sound: np.ndarray, rate: int) -> np.ndarray:
    """torchaudio's formula in float64: [T] at `rate` -> [ceil(T * 16000 / rate)]."""
    divisor = math.gcd(rate, RATE)
    orig, new = rate // divisor, RATE // divisor
    base = min(orig, new) * ROLLOFF
    width = math.ceil(HALF_TAPS * orig / base)
    t = (np.arange(0, -new, -1)[:, None] / new + np.arange(-width, width + orig) / orig) * base
    t = t.clip(-HALF_TAPS, HALF_TAPS)
    kernel = np.sinc(t) * np.i0(BETA * np.sqrt(1 - (t / HALF_TAPS) ** 2)) / np.i0(BETA) * base / orig
    padded = np.pad(sound.astype(np.float64), (width, width + orig))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[1])[::orig]
    return (windows @ kernel.T).ravel()[: math.ceil(len(sound) * new / orig)]


def by_ffmpeg(sound: np.ndarray, rate: int) -> np.ndarray:
    return resample(torch.from_numpy(sound), rate, RATE).numpy()


def soxr_at(quality: str) -> Resampler:
    import soxr

    return lambda sound, rate: soxr.resample(sound, rate, RATE, quality=quality)


def sine(frequency: float, rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(SECONDS * rate)) / rate).astype(np.float32)


def middle(sound: np.ndarray) -> np.ndarray:
    return sound[EDGE:-EDGE].astype(np.float64)


def level(sound: np.ndarray) -> float:
    """RMS in dB of that of a full sine."""
    return 10 * math.log10(2 * np.mean(middle(sound) ** 2) + 1e-30)


def measure(way: Resampler, rate: int) -> tuple[list[float], float, float, float | None, float]:
    nyquist = min(rate, RATE) / 2
    responses = [level(way(sine(share * nyquist, rate), rate)) for share in SHARES]
    noise = np.random.default_rng(0).standard_normal(round(SECONDS * rate)).astype(np.float32) * 0.1
    wanted = middle(by_torchaudio(noise, rate))
    difference = middle(way(noise, rate)) - wanted
    relative = 10 * math.log10(np.mean(difference**2) / np.mean(wanted**2) + 1e-30)
    times = np.arange(round(SECONDS * rate)) / rate
    chirp = np.sin(np.pi * 0.95 * nyquist / SECONDS * times**2).astype(np.float32)
    largest = np.abs(middle(way(chirp, rate)) - middle(by_torchaudio(chirp, rate))).max()
    left = level(way(sine(1.1 * nyquist, rate), rate)) if rate > RATE else None
    minute = np.tile(noise, 15)
    seconds = min(_timed(way, minute, rate) for _ in range(3))
    return responses, relative, float(largest), left, 1 / 60 / seconds


def _timed(way: Resampler, sound: np.ndarray, rate: int) -> float:
    start = time.process_time()
    way(sound, rate)
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    ways: dict[str, Resampler] = {"torchaudio": by_torchaudio, "FFmpeg": by_ffmpeg}
    try:
        ways |= {f"soxr {quality}": soxr_at(quality) for quality in ("HQ", "VHQ")}
    except ImportError:
        print("soxr is not installed: not measured")
    heads = ["Hz", "by", *(f"{share} dB" for share in SHARES), "noise dB", "chirp", "1.1 dB", "hours/s"]
    rows = []
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for rate in RATES:
        for name, way in ways.items():
            responses, relative, largest, left, speed = measure(way, rate)
            alias = "-" if left is None else f"{left:.1f}"
            cells = [*(f"{value:.2f}" for value in responses), f"{relative:.1f}", f"{largest:.1e}", alias]
            print(f"| {rate} | {name} | {' | '.join(cells)} | {speed:.2f} |", flush=True)
            facts = {"noise_db": relative, "chirp": largest, "alias_db": left, "hours_a_second": speed}
            rows.append({"rate": rate, "by": name, "levels_db": dict(zip(SHARES, responses, strict=True)), **facts})
    write_result("resamplers", {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
