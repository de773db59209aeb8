"""The commands of `audio2img-train`."""

from __future__ import annotations

from collections.abc import Sequence

from audio2img_core.cli.program import run_program

from . import eval as evaluate
from . import fit, prepare


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return run_program(
        "audio2img-train",
        "Train an audio encoder so that its tokens stand in for a CLIP text encoder's.",
        (fit, prepare, evaluate),
        argv,
        log=["training", "audio2img_core"],
    )
