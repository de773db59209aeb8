"""`audio2img-train eval`: judge a checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from audio2img_core.cli.common import progress, quiet_libraries
from audio2img_core.storage.files import check_writable, whole_file

HELP = "Judge a checkpoint on sounds with captions, beside what hears nothing and what hears everything."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("encoder", metavar="ENCODER", help="folder, .safetensors file or hub id")
    parser.add_argument("--data", required=True, metavar="DATA", help="sounds with captions, as for fit")
    parser.add_argument("--split", default="", help="of data, where it has splits")
    parser.add_argument("--teacher", required=True, metavar="MODEL", help="diffusers folder or hub id")
    parser.add_argument("--captions", default="", metavar="FOLDER", help="cache of captions (default: none is kept)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="clips at once (default: 16)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode (default: none)")
    parser.add_argument("--plots", metavar="FOLDER", help="also draw similarity.png and norms.png there")
    parser.add_argument("-o", "--output", metavar="FILE", help="also write the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the figures as a table."""
    if arguments.output:
        check_writable(Path(arguments.output).parent)
    if arguments.plots:
        check_writable(arguments.plots)
    if not arguments.debug:
        quiet_libraries()
    from ..evaluation.judge import judge
    from ..evaluation.metrics import beats_floor
    from ..evaluation.report import figures_table, plot_norms, plot_similarity

    with progress("eval", unit="batch") as on_step:
        figures, judged, first = judge(
            arguments.encoder,
            arguments.data,
            arguments.teacher,
            split=arguments.split or None,
            captions=arguments.captions or None,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            on_step=on_step,
        )
    print(f"{figures['clips']:.0f} clips, {figures['captions']:.0f} distinct captions")
    if figures["unread"]:
        print(f"{figures['unread']:.0f} more clips could not be read")
    print("\n".join(figures_table(figures)))
    held, reason = beats_floor(figures)
    if not held:
        print(f"mind: {reason}")
    if arguments.plots:
        plot_similarity(judged, Path(arguments.plots) / "similarity.png")
        plot_norms(judged, Path(arguments.plots) / "norms.png", first=first)
    if arguments.output:
        with whole_file(arguments.output) as partial:
            partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0
