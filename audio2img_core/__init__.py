"""audio2img: sound as a prompt for Stable Diffusion."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Imported on first use: loading the ComfyUI pack must not import transformers or diffusers.
_EXPORTS = {
    "load_audio": "audio.io",
    "log_mel": "audio.mel",
    "AudioEmbeddings": "encoder.embeddings",
    "AudioEncoder": "encoder.model",
    "AudioEncoderConfig": "encoder.config",
    "AudioToImagePipeline": "generation.pipeline",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
