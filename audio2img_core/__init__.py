"""audio2img: sound as a prompt for Stable Diffusion.

What this module exports is public, and docs/api.md describes it. Everything else may change between releases.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audio.io import load_audio
    from .audio.mel import log_mel
    from .conditioning.prompt import Conditioning
    from .conditioning.zero_shot import Heard
    from .encoder.config import AudioEncoderConfig
    from .encoder.embeddings import AudioEmbeddings
    from .encoder.model import AudioEncoder
    from .generation.pipeline import AudioToImageOutput, AudioToImagePipeline
    from .generation.settings import GenerationSettings

__version__ = "0.1.0"

__all__ = [
    "AudioEmbeddings",
    "AudioEncoder",
    "AudioEncoderConfig",
    "AudioToImageOutput",
    "AudioToImagePipeline",
    "Conditioning",
    "GenerationSettings",
    "Heard",
    "load_audio",
    "log_mel",
]

# Imported on first use: loading the ComfyUI pack must import neither transformers nor diffusers.
_MODULES = {
    "AudioEmbeddings": "encoder.embeddings",
    "AudioEncoder": "encoder.model",
    "AudioEncoderConfig": "encoder.config",
    "AudioToImageOutput": "generation.pipeline",
    "AudioToImagePipeline": "generation.pipeline",
    "Conditioning": "conditioning.prompt",
    "GenerationSettings": "generation.settings",
    "Heard": "conditioning.zero_shot",
    "load_audio": "audio.io",
    "log_mel": "audio.mel",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
