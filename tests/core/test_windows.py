"""Cutting clips in windows."""

import pytest
import torch

from audio2img_core.audio.mel import MIN_FRAMES, normalize
from audio2img_core.encoder.windows import Window, WindowConfig, plan_windows, window_features


@pytest.mark.parametrize("frames", [2, 3, 375, 376, 377, 378, 751, 752, 753, 754, 5000])
def test_side_by_side_windows_hold_every_frame_once(frames):
    windows = plan_windows(frames, 376, 376)
    covered = [f for w in windows for f in range(w.start, w.start + w.length)]
    assert len(covered) == len(set(covered))
    left_out = frames - len(covered)
    assert left_out == 0 or (len(windows) >= 1 and left_out < 376 // 20)  # a short tail says nothing by itself
    assert all(MIN_FRAMES <= w.length <= 376 for w in windows)


def test_a_tail_of_a_twentieth_is_left_out_and_a_longer_one_is_not():
    assert [w.length for w in plan_windows(394, 376, 376)] == [376, 18]
    assert [w.length for w in plan_windows(393, 376, 376)] == [376]
    assert [w.length for w in plan_windows(5, 376, 376)] == [5]


def test_overlapping_windows_end_with_the_clip():
    assert plan_windows(1000, 400, 200, clip=3) == [
        Window(3, 0, 400),
        Window(3, 200, 400),
        Window(3, 400, 400),
        Window(3, 600, 400),
    ]


def test_the_seeds_window_is_376_mel_frames():
    config = WindowConfig(seconds=3.75)
    assert config.size_frames == config.hop_frames == 376


def test_masked_padding():
    mel = torch.randn(11, 80)
    features, mask = window_features([mel, torch.randn(20, 80)], WindowConfig(seconds=0.2), size=20)
    assert features.shape == (2, 10, 160)
    assert mask.tolist() == [[1] * 5 + [0] * 5, [1] * 10]
    expected = normalize(mel[None], torch.tensor([11]))[0]
    torch.testing.assert_close(features[0].reshape(20, 80)[:11], expected)
    assert features[0].reshape(20, 80)[11:].abs().max() == 0


def test_constant_padding_is_seen():
    config = WindowConfig(seconds=0.2, padding="constant", pad_value=1.0)
    features, mask = window_features([torch.randn(11, 80)], config, size=20)
    assert mask is None
    assert (features[0].reshape(20, 80)[11:] == 1).all()


def test_repeat_padding_plays_the_sound_again():
    features, mask = window_features(
        [torch.randn(8, 80)], WindowConfig(seconds=0.2, padding="repeat", normalize="clip"), size=20
    )
    frames = features[0].reshape(20, 80)
    assert mask is None
    assert torch.equal(frames[8:16], frames[:8]) and torch.equal(frames[16:], frames[:4])


@pytest.mark.parametrize(
    "fields",
    [{"seconds": 0}, {"seconds": float("nan")}, {"hop_seconds": -1}, {"normalize": "no"}, {"padding": "mirror"}],
)
def test_impossible_configs_are_refused(fields):
    with pytest.raises(ValueError, match="window"):
        WindowConfig(**fields)


def test_impossible_plans_are_refused():
    with pytest.raises(ValueError, match="at least 2 frames"):
        plan_windows(1, 376, 376)


def test_dynamic_range_scales_all_bins_alike():
    """What lies more than the range below the loudest is cut off; padding, gain and order of clips change nothing."""
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(n, 80, generator=generator) * 5 for n in (20, 31)]
    config = WindowConfig(seconds=0.4, dynamic_range=8.0)
    features, mask = window_features(clips, config, size=40)
    for row, clip in zip(features, clips, strict=True):
        cut = (clip - clip.max()).clamp(min=-8.0)
        expected = (cut - cut.mean()) / cut.std()
        own = row.reshape(-1, 80)[: len(clip)]
        torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-4)
    louder, _ = window_features([clip + 3.0 for clip in clips[::-1]], config, size=40)
    torch.testing.assert_close(louder, features.flip(0), atol=1e-5, rtol=1e-5)
    assert mask.sum(1).tolist() == [10, 15]
    silent, _ = window_features([torch.full((20, 80), -15.0)], config, size=40)
    assert silent.isfinite().all() and silent.abs().max() == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"dynamic_range": 0.0}, "above 0"), ({"dynamic_range": 5.0, "normalize": "clip"}, "goes with normalize")],
)
def test_impossible_dynamic_ranges(fields, message):
    with pytest.raises(ValueError, match=message):
        WindowConfig(**fields)
