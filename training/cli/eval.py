"""`audio2img-train eval`: evaluate a checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from audio2img_core.cli.common import progress, quiet_libraries
from audio2img_core.storage.files import check_writable, whole_file

HELP = "Evaluate a checkpoint on captioned clips, with baselines and an upper bound beside it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("encoder", metavar="ENCODER", help="folder, .safetensors file or hub id")
    parser.add_argument("--data", required=True, metavar="DATA", help="clips with captions, as for fit")
    parser.add_argument("--split", default="", help="split of data, for datasets that have splits")
    parser.add_argument("--teacher", required=True, metavar="MODEL", help="diffusers folder or hub id")
    parser.add_argument("--captions", default="", metavar="FOLDER", help="cache of captions (default: not kept)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="clips encoded at once (default: 16)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode (default: none)")
    parser.add_argument("--plots", metavar="FOLDER", help="folder for the plots similarity.png and norms.png")
    parser.add_argument("-o", "--output", metavar="FILE", help="JSON file for the metrics")


def run(arguments: argparse.Namespace) -> int:
    """Print the metrics as a table."""
    if arguments.output:
        check_writable(Path(arguments.output).parent)
    if arguments.plots:
        check_writable(arguments.plots)
    if not arguments.debug:
        quiet_libraries()
    from ..evaluation.evaluate import evaluate
    from ..evaluation.metrics import beats_baseline
    from ..evaluation.report import metrics_table, plot_norms, plot_similarity

    with progress("eval", unit="batch") as on_step:
        metrics, evaluated, first = evaluate(
            arguments.encoder,
            arguments.data,
            arguments.teacher,
            split=arguments.split or None,
            captions=arguments.captions or None,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            on_step=on_step,
        )
    print(f"{metrics['clips']:.0f} clips, {metrics['captions']:.0f} distinct captions")
    if metrics["unread"]:
        print(f"{metrics['unread']:.0f} more clips could not be read")
    print("\n".join(metrics_table(metrics)))
    held, reason = beats_baseline(metrics)
    if not held:
        print(f"warning: {reason}")
    if arguments.plots:
        plot_similarity(evaluated, Path(arguments.plots) / "similarity.png")
        plot_norms(evaluated, Path(arguments.plots) / "norms.png", first=first)
    if arguments.output:
        with whole_file(arguments.output) as partial:
            partial.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return 0
