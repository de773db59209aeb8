"""Load Mini Diffusion Model."""

from __future__ import annotations

from typing import Any


class LoadMiniDiffusion:
    """Load the embedded diffusion model."""

    CATEGORY = "audio2img"
    DESCRIPTION = (
        "The small diffusion model that comes with this pack: it draws 128 x 128 pictograms of what the encoder mini "
        "hears, without any download. For the sampler use 12 steps or more and a cfg of 5."
    )
    SEARCH_ALIASES = ["mini model", "embedded model", "tiny diffusion", "audio2img model"]
    FUNCTION = "execute"
    RETURN_TYPES = ("MODEL", "VAE")
    RETURN_NAMES = ("model", "vae")
    OUTPUT_TOOLTIPS = ("For the sampler; latents of 128 x 128 pixels.", "For VAE Decode and VAE Encode.")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def execute(self) -> tuple[Any, Any]:
        from ..audio2img_core.generation.loading import load_mini_diffusion
        from . import diffusion

        pipeline = load_mini_diffusion()
        return diffusion.to_model(pipeline.unet, pipeline.scheduler), diffusion.to_vae(pipeline.vae)
