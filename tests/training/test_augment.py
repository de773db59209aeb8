"""Augmentations: what they change, what they leave, and where their numbers come from."""

from __future__ import annotations

import pytest
import torch

from training.data.augment import gain, mask_features, mix, random_crop, repeat_pad


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_random_crop_is_a_slice_from_anywhere():
    ramp = torch.arange(10.0)
    starts = set()
    draws = generator()
    for _ in range(200):
        crop = random_crop(ramp, 4, draws)
        assert torch.equal(crop, torch.arange(4.0) + crop[0])
        starts.add(int(crop[0]))
    assert starts == set(range(7))  # both ends included
    assert torch.equal(random_crop(ramp, 12, draws), ramp)
    with pytest.raises(ValueError, match="at least 1 sample"):
        random_crop(ramp, 0, draws)


def test_repeat_pad_repeats_from_the_beginning():
    assert repeat_pad(torch.tensor([1.0, 2.0, 3.0]), 8).tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    assert repeat_pad(torch.ones(2, 3), 5).shape == (2, 5)
    assert repeat_pad(torch.ones(9), 5).shape == (9,)
    with pytest.raises(ValueError, match="empty"):
        repeat_pad(torch.zeros(0), 5)


def test_gain_stays_within_its_decibels():
    draws = generator()
    factors = torch.stack([gain(torch.ones(1), draws, max_db=6.0) for _ in range(300)])
    decibels = 20 * factors.log10()
    assert decibels.abs().max() <= 6.0
    assert decibels.min() < -5.5 and decibels.max() > 5.5
    with pytest.raises(ValueError, match="max_db"):
        gain(torch.ones(1), draws, max_db=-1)


def test_mix_sets_the_level_between_two_sounds():
    a, b = 0.01 * torch.randn(4000, generator=generator(1)), 0.3 * torch.randn(3000, generator=generator(2))
    mixed = mix(a, b, -6.0)
    assert mixed.shape == (4000,)
    assert torch.equal(mixed[3000:], a[3000:])
    added = (mixed - a)[:3000]
    level = 10 * (added.square().mean() / a.square().mean()).log10()
    assert level == pytest.approx(-6.0, abs=1e-3)
    assert mix(torch.ones(10), torch.ones(10), 0.0).max() == 1.0  # not beyond full scale


def test_mix_with_silence_is_finite():
    assert torch.equal(mix(torch.ones(5), torch.zeros(5), 0.0), torch.ones(5))


WIDTHS = {"time_masks": 2, "time_width": 20, "freq_masks": 2, "freq_width": 10}


def test_masks_hit_the_same_mel_bins_of_both_halves():
    features = torch.ones(3, 100, 160)
    masked = mask_features(features, None, generator(), **(WIDTHS | {"time_masks": 0}))
    bins = (masked == 0).all(1)
    assert torch.equal(bins[:, :80], bins[:, 80:])
    assert 0 < bins[:, :80].sum(1).max() <= 20
    assert torch.equal(masked == 0, bins[:, None].expand_as(masked))  # nothing but whole bins
    assert len({tuple(row.tolist()) for row in bins}) == 3  # another draw for each clip
    assert torch.equal(features, torch.ones(3, 100, 160))


def test_time_masks_lie_within_the_valid_features():
    valid = torch.tensor([100, 30, 5]).repeat(300)
    mask = (torch.arange(100)[None] < valid[:, None]).long()
    one = WIDTHS | {"freq_masks": 0, "time_masks": 1}
    masked = mask_features(torch.ones(900, 100, 160), mask, generator(), **one)
    assert torch.equal(masked[:, :, 0], masked[:, :, 159])
    frames = masked[:, :, 0] == 0
    assert not (frames & (mask == 0)).any()
    assert frames.sum(1).view(300, 3).amax(0).tolist() == [20, 6, 1]  # the width, then a fifth of what is valid
    assert frames.view(300, 3, 100).any(0).sum(1).tolist() == valid[:3].tolist()  # anywhere


@pytest.mark.parametrize("off", [{"time_masks": 0, "freq_masks": 0}, {"time_width": 0, "freq_width": 0}])
def test_masks_off_change_nothing(off):
    features = torch.randn(2, 50, 160)
    assert torch.equal(mask_features(features, None, generator(), **(WIDTHS | off)), features)


def test_masks_come_from_the_generator_alone():
    features = torch.ones(2, 50, 160, dtype=torch.bfloat16)
    first = mask_features(features, None, generator(3), **WIDTHS)
    torch.rand(7)
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, mask_features(features, None, generator(3), **WIDTHS))
    assert not torch.equal(first, mask_features(features, None, generator(4), **WIDTHS))


@pytest.mark.parametrize("bad", [{"time_masks": -1}, {"freq_width": 81}])
def test_masks_refuse_what_cannot_be(bad):
    with pytest.raises(ValueError, match="freq_width at most 80"):
        mask_features(torch.ones(1, 50, 160), None, generator(), **(WIDTHS | bad))
    with pytest.raises(ValueError, match="160"):
        mask_features(torch.ones(1, 50, 80), None, generator(), **WIDTHS)
