"""The log-mel front end of Wav2Vec2-BERT, in batched torch.

The numbers are those of `SeamlessM4TFeatureExtractor` in transformers, which follows Kaldi's
`compute-fbank-feats`: 25 ms povey windows every 10 ms, DC removal, pre-emphasis 0.97, 80 mel bins from 20 Hz to
8 kHz on Kaldi's mel scale, natural logarithm of the power of 16-bit samples.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

FRAME_LENGTH = 400  # samples, 25 ms at 16 kHz
FRAME_HOP = 160  # samples, 10 ms at 16 kHz
FRAMES_PER_SECOND = 100
FFT_LENGTH = 512
NUM_MELS = 80
STACK = 2  # mel frames in one input feature
FEATURE_DIM = NUM_MELS * STACK
MIN_FRAMES = 2  # the variance of a single frame is undefined
MIN_SAMPLES = FRAME_LENGTH + (MIN_FRAMES - 1) * FRAME_HOP

_PRE_EMPHASIS = 0.97
_INT16_SCALE = 2.0**15
_CACHED_FRAMES = 256
_MEL_FLOOR = 1.192092955078125e-07  # float32's epsilon, Kaldi's floor
_VARIANCE_FLOOR = 1e-7
_MIN_HZ, _MAX_HZ = 20.0, 8000.0


def num_frames(num_samples: int) -> int:
    """Mel frames in `num_samples` samples at 16 kHz: only whole windows count (Kaldi's snip_edges)."""
    return 0 if num_samples < FRAME_LENGTH else 1 + (num_samples - FRAME_LENGTH) // FRAME_HOP


def log_mel(waveform: Tensor, lengths: Tensor | None = None, *, pad_value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Log-mel features as Wav2Vec2-BERT takes them.

    Args:
        waveform: [B, T] float in -1..1, mono, 16 kHz, on any device.
        lengths: [B] valid samples of each clip; None = all T. What lies beyond does not count.
        pad_value: what padded frames hold (0.0 in the extractor's defaults, 1.0 in `facebook/w2v-bert-2.0`).

    Returns:
        input_features [B, F, 160] float32 (zero mean and unit variance per clip and mel bin; two frames stacked,
        50 a second) and attention_mask [B, F] int64, 1 where both stacked frames are valid.

    Raises:
        ValueError: waveform is not [B, T] float, lengths do not fit, or a clip is shorter than 560 samples (35 ms).
    """
    if waveform.ndim != 2 or not waveform.is_floating_point():
        raise ValueError(f"waveform must be float [B, T], not {waveform.dtype} {list(waveform.shape)}")
    samples = [waveform.shape[1]] * waveform.shape[0] if lengths is None else [int(n) for n in lengths]
    if len(samples) != waveform.shape[0] or any(n > waveform.shape[1] for n in samples):
        raise ValueError(f"lengths {samples} do not fit a waveform of shape {list(waveform.shape)}")
    if not samples or min(samples) < MIN_SAMPLES:
        raise ValueError(f"log_mel needs clips of at least {MIN_SAMPLES} samples (35 ms), not {samples}")
    mel = mel_frames(waveform)
    counts = torch.tensor([num_frames(n) for n in samples], device=waveform.device)
    mel = mel[:, : int(counts.max())]
    return stack_frames(normalize(mel, counts), counts, pad_value=pad_value)


def mel_frames(waveform: Tensor) -> Tensor:
    """Natural logarithm of the mel powers, not normalised: [B, T] float -> [B, frames, 80] float32."""
    window, filters = _constants(str(waveform.device))
    batch, count = waveform.shape[0], num_frames(waveform.shape[1])
    # A CPU's caches hold the spectra of so many frames; a GPU wants all at once.
    block = -(-_CACHED_FRAMES // batch) if waveform.device.type == "cpu" else max(count, 1)
    mel = waveform.new_empty((batch, count, NUM_MELS), dtype=torch.float32)
    for i in range(0, count, block):
        n = min(block, count - i)
        # In float64 up to the spectrum, as the reference: bins that are 60 dB below the loudest drown in float32's
        # rounding, and the logarithm then shows it.
        samples = waveform[:, i * FRAME_HOP :][:, : FRAME_LENGTH + (n - 1) * FRAME_HOP].to(window.dtype)
        # Kaldi takes the mean off a frame, then 0.97 of each sample off the next. Done once for all frames, that leaves
        # 0.03 of the mean to take off. The first sample of a frame would differ, but its window is zero: without it the
        # power of the spectrum is the same.
        emphasised = torch.sub(samples[:, 1:], samples[:, :-1], alpha=_PRE_EMPHASIS)
        parts = samples.unflatten(1, (-1, FRAME_HOP // 2)).sum(-1).unfold(1, 2 * FRAME_LENGTH // FRAME_HOP, 2)
        offsets = parts.sum(-1, keepdim=True) * ((1 - _PRE_EMPHASIS) / FRAME_LENGTH)
        frames = (emphasised.unfold(1, FRAME_LENGTH - 1, FRAME_HOP) - offsets).mul_(window)
        spectrum = torch.fft.rfft(frames, n=FFT_LENGTH)
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        mel[:, i : i + n] = power.float() @ filters
    return mel.clamp_(min=_MEL_FLOOR).log_()


def normalize(mel: Tensor, counts: Tensor) -> Tensor:
    """Zero mean and unit variance (N - 1) of each mel bin over the valid frames.

    Args:
        mel: [B, N, 80]. counts: [B] valid frames of each clip, at least 2.
    Returns:
        [B, N, 80]; frames beyond a clip's count hold no meaning.
    """
    valid = _valid(mel, counts)
    n = counts.to(mel.dtype)[:, None, None]
    # Shifted by the first frame, so that a constant bin (silence) gives exactly zero and not rounding noise
    # blown up by the variance floor. All in one copy: the frames of an hour are 115 MB.
    mel = torch.where(valid, mel, 0.0)
    mel.sub_(mel[:, :1].clone()).mul_(valid)
    mel.sub_(mel.sum(1, keepdim=True) / n).mul_(valid)
    variance = torch.linalg.vector_norm(mel, dim=1, keepdim=True).square() / (n - 1)
    return mel.div_((variance + _VARIANCE_FLOOR).sqrt_())


def normalize_level(mel: Tensor, counts: Tensor, dynamic_range: float) -> Tensor:
    """Cut off what lies far below the loudest, then mean 0 and variance 1 over all frames and bins of a clip together.

    Unlike `normalize` it keeps how loud a clip's bins are to each other, and forgets the noise between its sounds.

    Args:
        mel: [B, N, 80] log-mel frames, in nats. counts: [B] valid frames of each clip.
        dynamic_range: nats below the clip's loudest value at which values are cut off.

    Returns:
        [B, N, 80]; frames beyond a clip's count hold no meaning.
    """
    valid = _valid(mel, counts)
    peak = torch.where(valid, mel, -torch.inf).amax((1, 2), keepdim=True)
    mel = torch.where(valid, (mel - peak).clamp(min=-dynamic_range), 0.0)
    n = counts.to(mel.dtype)[:, None, None] * mel.shape[2]
    mel = mel - mel.sum((1, 2), keepdim=True) / n
    variance = (mel * valid).square().sum((1, 2), keepdim=True) / (n - 1)
    return mel / (variance + _VARIANCE_FLOOR).sqrt()


def stack_frames(mel: Tensor, counts: Tensor, *, pad_value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Join each two frames: mel [B, N, 80], counts [B] -> features [B, ceil(N / 2), 160], mask [B, ceil(N / 2)]."""
    mel = torch.where(_valid(mel, counts), mel, pad_value)
    if mel.shape[1] % STACK:
        mel = F.pad(mel, (0, 0, 0, 1), value=pad_value)
    features = mel.reshape(mel.shape[0], -1, FEATURE_DIM)
    last = torch.arange(STACK - 1, mel.shape[1], STACK, device=mel.device)
    return features, (last[None] < counts[:, None]).long()


def fold_features(features: Tensor, mask: Tensor | None, count: int) -> tuple[Tensor, Tensor | None]:
    """Join each `count` features, for backbones of fewer frames a second.

    Args:
        features: [B, F, 160]. mask: [B, F], or None where every feature counts. count: 1 = as they are.

    Returns:
        features [B, ceil(F / count), 160 count] and mask [B, ceil(F / count)], 1 where all that are joined count. The
        last feature is repeated to fill up.
    """
    if count == 1:
        return features, mask
    missing = -features.shape[1] % count
    if missing:
        features = torch.cat([features, features[:, -1:].expand(-1, missing, -1)], 1)
        mask = mask if mask is None else torch.cat([mask, mask[:, -1:].expand(-1, missing)], 1)
    features = features.reshape(len(features), -1, count * features.shape[2])
    return features, mask if mask is None else mask.unflatten(1, (-1, count)).amin(2)


def _valid(mel: Tensor, counts: Tensor) -> Tensor:
    return (torch.arange(mel.shape[1], device=mel.device)[None] < counts[:, None])[..., None]


@functools.lru_cache(maxsize=8)
def _constants(device: str) -> tuple[Tensor, Tensor]:
    """Povey window for samples of 16 bits, without its first value, which is zero, [399], and mel filters [257, 80]."""
    # Povey window: a Hann window to the power 0.85 (Kaldi, feature-window.cc).
    window = torch.hann_window(FRAME_LENGTH, periodic=False, dtype=torch.float64)[1:].pow(0.85) * _INT16_SCALE
    hz = torch.linspace(0, 8000, FFT_LENGTH // 2 + 1, dtype=torch.float64)
    lowest, highest = (_kaldi_mel(torch.tensor(f, dtype=torch.float64)).item() for f in (_MIN_HZ, _MAX_HZ))
    edges = torch.linspace(lowest, highest, NUM_MELS + 2).double()
    # Triangles that are straight on the mel scale, not in Hz.
    mel = _kaldi_mel(hz)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    precise = torch.float32 if device.startswith("mps") else torch.float64  # Apple's GPUs have no float64
    return window.to(device, precise), filters.to(device, torch.float32)


def _kaldi_mel(hz: Tensor) -> Tensor:
    """Kaldi's mel scale: 1127 ln(1 + f / 700)."""
    return 1127.0 * torch.log1p(hz / 700.0)
