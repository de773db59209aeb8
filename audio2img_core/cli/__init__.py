"""The command line `audio2img`."""

from .main import main

__all__ = ["main"]
