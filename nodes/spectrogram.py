"""Preview Spectrogram."""

from __future__ import annotations

from typing import Any

import torch

from ..audio2img_core.audio.waveform import read_audio_mapping, read_clips


class PreviewSpectrogram:
    """Show what a sound looks like to the encoder."""

    CATEGORY = "audio2img"
    DESCRIPTION = (
        "Draws the waveform of a sound and, below it, its log-mel spectrogram, which is what the encoder hears. One "
        "picture for each sound of a batch."
    )
    SEARCH_ALIASES = ["spectrogram", "waveform", "mel", "audio preview", "audio visualizer"]
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("Waveform and spectrogram over the same seconds.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "audio": ("AUDIO", {"tooltip": "From any node that gives AUDIO; any channels, rate and batch."}),
                "width": ("INT", {"default": 960, "min": 320, "max": 4096, "step": 8, "tooltip": "Pixels."}),
                "height": ("INT", {"default": 420, "min": 200, "max": 2160, "step": 8, "tooltip": "Pixels."}),
            }
        }

    def execute(self, audio: Any, width: int, height: int) -> tuple[torch.Tensor]:
        from ..audio2img_core.plots import as_image_batch, draw_spectrogram

        clips = read_clips(read_audio_mapping(audio))
        return (as_image_batch([draw_spectrogram(clip, width=width, height=height) for clip in clips]),)
