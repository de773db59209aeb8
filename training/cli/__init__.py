"""The command line `audio2img-train`."""

from .main import main

__all__ = ["main"]
