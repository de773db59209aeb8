"""From the trained parts to what is shipped: `audio2img_core/mini/` in float16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from audio2img_core import AudioEncoder
from audio2img_core.storage.files import whole_folder

from .diffusion import SCHEDULE

LICENCE = "GPL-3.0-or-later"
"""Of the audio encoder's weights: what goes together with the licences of the sounds that it learns from."""


def make_pipeline(autoencoder: Any, teacher: tuple[Any, Any], unet: Any) -> Any:
    """A stock `StableDiffusionPipeline` of the parts, with DPM-Solver++ for its few steps."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]

    tokenizer, text = teacher
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="trailing")
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )


def export(pipeline: Any, encoder: AudioEncoder, captions: list[str], credits: str, folder: Path) -> int:
    """Write the shipped folder's weights, captions and SOURCES.md; README and licences are written by hand.

    Returns:
        Bytes of all files.
    """
    with whole_folder(folder / "diffusion", replace=True) as partial:
        pipeline.to(torch.float16).save_pretrained(partial, safe_serialization=True)
        _without(partial / "vae" / "config.json", "block_out_channels")  # diffusers warns of it and sets it itself
    encoder.config.backbone._name_or_path = ""  # paths of the machine that trained it are nobody's business
    encoder.config.training |= {"backbone": "", "data": "", "teacher": "mini", "licence": LICENCE}
    with whole_folder(folder / "encoder", replace=True) as partial:
        encoder.half().save_pretrained(partial)
    (folder / "captions.json").write_text(json.dumps(captions, indent=0) + "\n", encoding="utf-8")
    (folder / "SOURCES.md").write_text(credits, encoding="utf-8")
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _without(file: Path, key: str) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    config.pop(key, None)
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
