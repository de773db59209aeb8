"""`audio2img-train fit`: train an encoder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from audio2img_core.cli.common import progress, quiet_libraries

from ..config import SECTIONS, TRAINER
from .flags import add_settings, read_settings

HELP = "Train an encoder; the same command resumes a run that was stopped."
TAKES_REST = True
OWN_HELP = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_settings(parser, [*SECTIONS, TRAINER], preset="default")
    parser.add_argument(
        "--push-to-hub", metavar="OWNER/NAME", help="upload the encoder with its card at the end; needs a hub token"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train and say where the encoder lies."""
    flags = {}
    if arguments.push_to_hub:
        flags = {"trainer.push_to_hub": "true", "trainer.hub_model_id": arguments.push_to_hub}
    if not arguments.debug:
        quiet_libraries()
    config = read_settings(arguments, flags)
    from ..loop.fit import finished_run, fit

    if file := finished_run(config):
        if os.environ.get("RANK", "0") == "0":
            print(f"{file}: the run has ended, nothing is left to train")
        return 0
    with progress("captions", unit="caption") as on_step:
        trainer = fit(config, on_caption=on_step)
    if trainer.is_world_process_zero():
        print(Path(config.run.output) / "encoder.safetensors")
    return 0
