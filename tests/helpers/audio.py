"""Generated audio and audio files, as `benchmarks.generated` makes them, and ComfyUI's AUDIO."""

from __future__ import annotations

import torch

from benchmarks.generated import noise, sine, write_audio, write_silence

__all__ = ["audio", "noise", "sine", "write_audio", "write_silence"]


def audio(seconds: float = 1.0, batch: int = 1, channels: int = 1, rate: int = 16_000) -> dict:
    """ComfyUI's AUDIO of noise."""
    waveform = torch.stack([noise(seconds, rate=rate, seed=i) for i in range(batch * channels)])
    return {"waveform": waveform.reshape(batch, channels, -1), "sample_rate": rate}
