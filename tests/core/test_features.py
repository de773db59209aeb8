"""The front end against transformers' extractor."""

import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor

from audio2img_core import log_mel
from audio2img_core.audio.mel import FEATURE_DIM, mel_frames, normalize, num_frames
from tests.helpers.audio import noise, sine

LENGTHS = [560, 561, 719, 720, 721, 879, 880, 1000, 1600, 2401, 4000, 7999, 8000, 16000, 16001, 22050, 37777, 60000]
LENGTHS += [160000, 480123]


def reference(clips, **options):
    extractor = SeamlessM4TFeatureExtractor(**options)
    out = extractor([clip.numpy() for clip in clips], sampling_rate=16000, return_tensors="pt")
    return out.input_features, out.attention_mask


def clip(samples, seed=0):
    """Noise with a tone in it, fading out: loud and quiet bins."""
    t = torch.linspace(0, 1, samples)
    return (0.1 * noise(samples / 16000, seed=seed)[:samples] + sine(samples / 16000)[:samples]) * (1 - 0.99 * t)


@pytest.mark.parametrize("samples", LENGTHS)
def test_agrees_with_transformers(samples):
    waveform = clip(samples)
    features, mask = log_mel(waveform[None])
    expected, expected_mask = reference([waveform])
    assert features.shape == expected.shape and features.dtype == torch.float32
    assert (features - expected).abs().max() < 1e-3
    assert torch.equal(mask, expected_mask.long())


@pytest.mark.parametrize("pad_value", [0.0, 1.0])
def test_a_batch_of_several_lengths_agrees_with_transformers(pad_value):
    clips = [clip(n, seed=n) for n in LENGTHS[:-2]]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=0.7)
    features, mask = log_mel(padded, torch.tensor([len(c) for c in clips]), pad_value=pad_value)
    expected, expected_mask = reference(clips, padding_value=pad_value)
    assert features.shape == expected.shape
    assert (features - expected).abs().max() < 1e-3
    assert torch.equal(mask, expected_mask.long())


def test_a_batched_clip_equals_the_clip_alone():
    clips = [clip(n, seed=n) for n in (16000, 5000, 12345)]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=float("nan"))
    features, mask = log_mel(padded, torch.tensor([len(c) for c in clips]))
    assert features.isfinite().all()
    for i, alone in enumerate(clips):
        expected, expected_mask = log_mel(alone[None])
        frames = expected.shape[1]
        torch.testing.assert_close(features[i, :frames], expected[0], atol=1e-5, rtol=0)
        assert torch.equal(mask[i, :frames], expected_mask[0]) and mask[i, frames:].sum() == 0


def test_silence_gives_zeros():
    features, mask = log_mel(torch.zeros(1, 16000))
    assert features.shape[-1] == FEATURE_DIM and mask.all()
    assert features.abs().max() == 0


def test_a_tone_lights_the_mel_bin_of_its_frequency():
    low, high = (mel_frames(sine(1, freq=f)[None])[0].mean(0).argmax().item() for f in (300.0, 3000.0))
    # 1127 ln(1 + f / 700) on 80 bins between 20 Hz and 8 kHz: bin = 81 (mel(f) - 31.75) / (2840 - 31.75) - 1.
    assert abs(low - 10) <= 1 and abs(high - 53) <= 1


def test_number_of_frames():
    assert [num_frames(n) for n in (0, 399, 400, 559, 560, 60400)] == [0, 0, 1, 1, 2, 376]


@pytest.mark.parametrize(
    ("waveform", "lengths", "message"),
    [
        (torch.zeros(16000), None, r"\[B, T\]"),
        (torch.zeros(1, 16000, dtype=torch.int16), None, "int16"),
        (torch.zeros(1, 559), None, "560 samples"),
        (torch.zeros(2, 16000), torch.tensor([16000]), "lengths"),
        (torch.zeros(1, 16000), torch.tensor([16001]), "lengths"),
    ],
)
def test_bad_input(waveform, lengths, message):
    with pytest.raises(ValueError, match=message):
        log_mel(waveform, lengths)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_numbers():
    waveform = clip(160000)[None]
    features, mask = log_mel(waveform.cuda())
    expected, expected_mask = log_mel(waveform)
    torch.testing.assert_close(features.cpu(), expected, atol=1e-4, rtol=0)
    assert torch.equal(mask.cpu(), expected_mask)


@pytest.mark.parametrize("frames", [2, 3, 998, 40_000])
def test_normalised_is_what_the_definition_says(frames):
    mel = 5 * torch.randn(frames, 80, generator=torch.Generator().manual_seed(frames)) - 10
    mel[:, 7] = -15.0  # a silent bin
    given = mel[None].clone()
    expected = (mel.double() - mel.double().mean(0)) / (mel.double().var(0) + 1e-7).sqrt()
    normalised = normalize(given, torch.tensor([frames]))[0]
    torch.testing.assert_close(normalised, expected.float(), atol=1e-5, rtol=1e-5)
    assert (normalised[:, 7] == 0).all()
    assert torch.equal(given[0], mel)
