"""Audio to Conditioning."""

from __future__ import annotations

from typing import Any

from ..audio2img_core.conditioning.comfy import to_comfy
from ..audio2img_core.conditioning.modes import WINDOW_MODES
from ..audio2img_core.conditioning.prompt import condition
from ..audio2img_core.encoder.embeddings import AudioEmbeddings
from . import host

STRENGTH = (
    "FLOAT",
    {
        "default": 1.0,
        "min": 0.0,
        "max": 4.0,
        "step": 0.05,
        "tooltip": "0 is the empty prompt, 1 the sound; above 1 goes beyond it.",
    },
)
CLIP = ("CLIP", {"tooltip": "For encoders that carry no empty prompt, such as the original project's."})


class AudioToConditioning:
    """Make CONDITIONING of what was heard."""

    CATEGORY = "audio2img"
    DESCRIPTION = (
        "Makes positive and negative CONDITIONING of what the encoder heard. Connect them as you would connect text "
        "prompts. The negative is the empty prompt that the diffusion model was trained with."
    )
    SEARCH_ALIASES = ["audio prompt", "sound prompt", "audio conditioning"]
    FUNCTION = "execute"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    OUTPUT_TOOLTIPS = ("What was heard, as a prompt.", "The empty prompt, as the negative.")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "embeds": ("A2I_EMBEDS", {"tooltip": "From Audio Encoder (Wav2Vec2Bert)."}),
                "strength": STRENGTH,
                "windows": (
                    list(WINDOW_MODES),
                    {
                        "default": "average",
                        "tooltip": "Of a sound longer than one window: average all, join them to one long prompt, or "
                        "keep one conditioning each (for a latent batch of as many).",
                    },
                ),
            },
            "optional": {
                "model": (
                    "MODEL",
                    {"tooltip": "The diffusion model, only to check that the encoder was trained for its family."},
                ),
                "clip": CLIP,
            },
        }

    def execute(
        self, embeds: AudioEmbeddings, strength: float, windows: str, model: Any = None, clip: Any = None
    ) -> tuple[list[Any], list[Any]]:
        if model is not None:
            host.check_model(model, embeds.space.target)
        null = host.null_prompt(embeds.space, clip)
        positive, negative = condition(embeds, sound_strength=strength, windows=windows, null=null)
        device = host.intermediate_device()
        return to_comfy(positive.to(device)), to_comfy(negative.to(device))
