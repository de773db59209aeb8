"""Audio-Text Similarity."""

from __future__ import annotations

from typing import Any

import torch

from ..audio2img_core.conditioning.zero_shot import caption_scores, nearest_captions, read_captions
from ..audio2img_core.encoder.embeddings import AudioEmbeddings
from . import host


class AudioTextSimilarity:
    """Say which of some captions fits a sound."""

    CATEGORY = "audio2img"
    DESCRIPTION = (
        "Scores captions of your own against a sound: how the encoder's belief is shared out among them. Tells what an "
        "encoder hears, and how well it tells sounds apart. For mini it needs nothing else; for other encoders connect "
        "the CLIP of their diffusion model."
    )
    SEARCH_ALIASES = ["audio classification", "zero-shot audio", "what is heard", "clap score", "audio caption"]
    FUNCTION = "execute"
    RETURN_TYPES = ("STRING", "IMAGE", "STRING")
    RETURN_NAMES = ("scores", "image", "best")
    OUTPUT_TOOLTIPS = (
        "Captions and scores, best first, a line each; sounds of a batch are separated by an empty line.",
        "The scores as bars, one picture for each sound.",
        "The best caption of each sound, a line each: a text prompt.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "embeds": ("A2I_EMBEDS", {"tooltip": "From Audio Encoder (Wav2Vec2Bert)."}),
                "captions": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "a piano\na dog\nrain",
                        "tooltip": "What the sound may be: a caption a line, at least two.",
                    },
                ),
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "The text encoder that the audio encoder was trained for; not for mini."}),
            },
        }

    def execute(self, embeds: AudioEmbeddings, captions: str, clip: Any = None) -> tuple[str, torch.Tensor, str]:
        from ..audio2img_core.plots import as_image_batch, draw_scores

        lines = read_captions(captions)
        scores = caption_scores(embeds, host.encode_captions(embeds.space.target, lines, clip))
        named = nearest_captions(scores, lines, top=len(lines))
        text = "\n\n".join("\n".join(f"{heard.caption}: {heard.score:.1%}" for heard in order) for order in named)
        return text, as_image_batch([draw_scores(order) for order in named]), "\n".join(o[0].caption for o in named)
