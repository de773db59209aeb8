"""Speed, equaliser, room, noise and codec: what they do to sounds whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from audio2img_core.audio.clips import AudioClip
from tests.helpers.audio import noise, sine, write_audio
from training.data.clips import Source
from training.data.config import DataConfig
from training.data.dataset import ClipDataset, acoustics, seeded

RATE = 16_000


def peak_hertz(waveform: torch.Tensor) -> float:
    return float(torch.fft.rfft(waveform).abs().argmax()) * RATE / len(waveform)


def level(waveform: torch.Tensor) -> float:
    return float(waveform.square().mean().sqrt())


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_speed_moves_pitch_and_length_and_keeps_the_level(factor):
    changed = acoustics.change_speed(sine(1.0, freq=1000.0), factor)
    assert len(changed) == round(RATE / factor)
    assert peak_hertz(changed) == pytest.approx(1000 * factor, abs=2)
    assert level(changed) == pytest.approx(level(sine(1.0)), rel=1e-3)


def test_speed_folds_nothing_back():
    assert level(acoustics.change_speed(sine(1.0, freq=7500.0), 1.25)) < 1e-3
    with pytest.raises(ValueError, match="above 0"):
        acoustics.change_speed(sine(0.1), 0.0)


def test_equaliser_stays_within_its_gains():
    gains = []
    for seed in range(20):
        out = acoustics.equalize(sine(1.0, freq=900.0), seeded(seed), max_db=12.0)
        gains.append(20 * math.log10(level(out) / level(sine(1.0))))
    assert -12 <= min(gains) < -3 and 3 < max(gains) <= 12
    torch.testing.assert_close(acoustics.equalize(noise(0.5), seeded(0), max_db=0.0), noise(0.5), atol=1e-6, rtol=0)


def test_a_room_rings_on_and_keeps_what_came_before():
    click = torch.zeros(RATE)
    click[4000] = 0.5
    wet = acoustics.reverberate(click, seeded(3))
    assert wet.shape == click.shape and wet[:4000].abs().max() < 1e-6 and wet[4000] > 0.3
    early, late = wet[4001:5000].square().sum(), wet[-1000:].square().sum()
    assert early > 0 and early > 100 * late
    assert acoustics.reverberate(noise(1.0) * 8, seeded(1)).abs().max() <= 1


@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_has_its_ratio(snr):
    clean = sine(1.0)
    noisy = acoustics.add_noise(clean, seeded(0), min_snr_db=snr, max_snr_db=snr)
    scale = float(noisy @ clean / (clean @ clean))  # where the sum left -1..1
    rest = noisy / scale - clean
    assert 20 * math.log10(level(clean) / level(rest)) == pytest.approx(snr, abs=0.3)


def test_a_codec_keeps_length_and_sound():
    clean = sine(1.0, freq=500.0)
    coded = acoustics.compress(clean, seeded(0))
    assert coded.shape == clean.shape and coded.dtype == torch.float32
    assert peak_hertz(coded) == pytest.approx(500, abs=2)
    assert not torch.allclose(coded, clean, atol=1e-3) and level(coded) == pytest.approx(level(clean), rel=0.1)
    assert len(acoustics.compress(sine(0.05), seeded(0))) == 800


@pytest.mark.parametrize("change", ["speed", "eq_db", "room_probability", "noise_probability", "codec_probability"])
def test_each_is_switched_by_its_field_and_only_in_training(tmp_path, change):
    clip = AudioClip("a", str(write_audio(tmp_path / "a.wav", noise(1.5), RATE)), ("x",))
    plain = {"window_seconds": 1.0, "random_crop": False, "gain_db": 0.0}
    config = DataConfig(**plain, **{change: 0.5 if change == "speed" else 1.0})
    source = Source("clips", [clip])
    clean = ClipDataset(source, DataConfig(**plain))[0]["waveform"]
    changed = ClipDataset(source, config)[0]
    assert changed["waveform"].shape == clean.shape and not torch.allclose(changed["waveform"], clean, atol=1e-4)
    assert torch.equal(ClipDataset(source, config)[0]["waveform"], changed["waveform"])
    assert torch.equal(ClipDataset(source, config, training=False)[0]["waveform"], clean)
