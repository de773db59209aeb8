"""Encoder inputs of a batch of waveforms, as inference makes them, on the training device."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from audio2img_core.audio.mel import mel_frames, normalize, num_frames
from audio2img_core.encoder.windows import WindowConfig, window_features


def batch_features(
    waveform: Tensor, lengths: Tensor, window: WindowConfig, *, mask_padding: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Features of the first window of each clip.

    Args:
        waveform: [B, T] float, mono, 16 kHz. lengths: [B] valid samples of each clip, at least 560.
        window: how the encoder cuts, normalises and pads.
        mask_padding: give the mask of padded frames also where the encoder's windows show them, as the seed
            project trained.

    Returns:
        input_features [B, F, 160] float32 and attention_mask [B, F], None where every frame counts.
    """
    mel = mel_frames(waveform)
    counts = torch.tensor([num_frames(int(n)) for n in lengths], device=mel.device)
    if window.normalize == "clip":
        mel = normalize(mel, counts)
    size = window.size_frames
    clips = [row[: min(int(n), size)] for row, n in zip(mel, counts, strict=True)]
    features, mask = window_features(clips, window, size=size)
    if mask is None and mask_padding and window.padding == "constant":
        _, mask = window_features(clips, replace(window, padding="mask"), size=size)
    return features, mask
