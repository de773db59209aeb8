"""`audio2img-train prepare`: decode and cut clips, and encode captions, ahead of training."""

from __future__ import annotations

import argparse
import os
import sys

from audio2img_core.batch.jobs import SHARD_SIZE
from audio2img_core.cli.common import add_engine_arguments, progress, quiet_libraries

from .flags import add_settings, read_settings

HELP = "Decode, cut and cache clips and the teacher's captions ahead of training; a stopped call resumes."
OWN_HELP = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one for each core)"
    )
    add_engine_arguments(parser, local="processes of this machine", size=str(SHARD_SIZE))
    add_settings(parser, ["run", "window", "data"], preset="default")


def run(arguments: argparse.Namespace) -> int:
    """Prepare and say what came of it."""
    config = read_settings(arguments)
    if not arguments.debug:
        quiet_libraries()
    from ..data.prepare import prepare

    with progress("prepare", unit="clip") as on_clip, progress("captions", unit="caption") as on_caption:
        done = prepare(
            config,
            jobs=arguments.jobs,
            engine=arguments.engine,
            shard_size=SHARD_SIZE if arguments.shard_size is None else arguments.shard_size,
            on_clip=on_clip,
            on_caption=on_caption,
        )
    print(f"{done.clips} clips, {done.captions} captions, {done.bad} clips left out", file=sys.stderr)
    print(config.run.output)
    return 0
