"""The command line `audio2img`."""

from __future__ import annotations

from collections.abc import Sequence

from . import app, convert, encode, film, generate, hear, info, init
from .program import run_program


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_program(
        "audio2img",
        "Sound as a prompt: draw what is heard.",
        (generate, film, hear, app, encode, info, convert, init),
        argv,
        log=[__name__.split(".")[0]],
    )
