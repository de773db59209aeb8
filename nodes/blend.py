"""Blend Conditioning."""

from __future__ import annotations

from typing import Any

from ..audio2img_core.conditioning.comfy import blend_comfy
from ..audio2img_core.conditioning.modes import BLEND_MODES


class BlendConditioning:
    """Mix two prompts."""

    CATEGORY = "audio2img"
    DESCRIPTION = (
        "Mixes two prompts: sound with text, sound with sound, or text with text. Both must be of the same text "
        "encoder's width."
    )
    SEARCH_ALIASES = ["mix conditioning", "audio and text", "slerp conditioning", "conditioning average"]
    FUNCTION = "execute"
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("The prompt between the two.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning_a": ("CONDITIONING", {"tooltip": "The prompt at weight 0, such as a sound."}),
                "conditioning_b": ("CONDITIONING", {"tooltip": "The prompt at weight 1, such as a text."}),
                "weight": (
                    "FLOAT",
                    {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": "0 is the first, 1 the second."},
                ),
                "mode": (
                    list(BLEND_MODES),
                    {
                        "default": "linear",
                        "tooltip": "linear: token by token in a straight line; spherical: along the great circle, "
                        "which keeps the tokens' length; join: both prompts one after the other.",
                    },
                ),
            }
        }

    def execute(
        self, conditioning_a: list[Any], conditioning_b: list[Any], weight: float, mode: str
    ) -> tuple[list[Any]]:
        return (blend_comfy(conditioning_a, conditioning_b, weight, mode=mode),)
