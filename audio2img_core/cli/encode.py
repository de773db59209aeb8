"""`audio2img encode`: audio files to embeddings, in shards that machines share or in one file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path, PurePath

from ..audio.clips import list_clips
from ..batch.jobs import SHARD_SIZE, Folder
from ..batch.ray_engine import has_gpus, run_ray
from ..storage.files import check_writable
from ..storage.paths import absolute, base_name, is_url
from .common import (
    MINI,
    add_cut_arguments,
    add_device_arguments,
    add_engine_arguments,
    excerpt_of,
    progress,
    quiet_libraries,
)

_OTHER_FILES = (".npz", ".npy", ".pt", ".pth", ".bin", ".json", ".jsonl", ".csv", ".parquet", ".h5", ".pkl", ".tar")
_RESUMED = 16  # clips per shard while one file is made, whose shards are only for resuming

HELP = "Encode audio files to embeddings, in a folder of shards or in one .safetensors file; a stopped run resumes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="SOUND",
        help="audio or video files, folders of them, or manifests (.csv, .tsv, .jsonl, .parquet), by path or URL "
        "(s3://, gs://, ...); into shards also tar shards (sounds-{000..012}.tar)",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="PLACE", help="folder or URL of the shards, or one .safetensors file"
    )
    add_cut_arguments(parser)
    parser.add_argument("--encoder", default=MINI, help="folder, .safetensors file or hub id (default: mini)")
    parser.add_argument("--average", action="store_true", help="one embedding per clip, not one per window")
    parser.add_argument("--batch-size", type=int, metavar="N", help="windows at once (default: 8 on a GPU, else 1)")
    add_engine_arguments(parser, local="this process", size=f"{SHARD_SIZE}; {_RESUMED} while one file is made")
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Encode what is not encoded yet; clips that cannot be read are reported and left out."""
    for name in ("batch_size", "shard_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"{name.replace('_', '-')} must be at least 1, not {value}")
    cut = excerpt_of(arguments)
    output: str = arguments.output
    suffix = PurePath(base_name(output)).suffix.lower()
    one_file = suffix == ".safetensors"
    if (one_file and (is_url(output) or arguments.engine == "ray")) or suffix in _OTHER_FILES:
        raise ValueError(
            f"{output}: embeddings go to one local .safetensors file or in shards, as by the engine ray, to a folder "
            "or a URL"
        )
    clips, tars = list_clips(arguments.inputs)
    if one_file and tars:
        raise ValueError(f"{tars[0]}: tar shards are encoded into shards: -o FOLDER")
    if not is_url(output):
        check_writable(Path(output).parent if one_file else output)
    quiet_libraries()
    from ..batch.embed import EncodeJob, export, load_encoder, settings_of
    from ..batch.engines import run_local

    device, dtype = arguments.device, arguments.dtype
    if arguments.engine == "ray":
        gpus = has_gpus()  # asked first: a missing cluster is reported before anything is loaded
        device = "cpu"  # of the encoder that is only looked at here
        if gpus and dtype is None and arguments.device is None and arguments.encoder != MINI:
            dtype = "bfloat16"  # of all machines, also where this one would take another by itself
    encoder = load_encoder(arguments.encoder, device=device, dtype=dtype)
    job = EncodeJob(
        output=absolute(f"{output}.partial" if one_file else output),
        encoder=absolute(arguments.encoder) if os.path.exists(arguments.encoder) else arguments.encoder,
        settings=settings_of(encoder, start=cut.start, duration=cut.duration, average=arguments.average),
        size=arguments.shard_size or (_RESUMED if one_file else SHARD_SIZE),
        batch_size=arguments.batch_size,
        device=arguments.device,
        dtype=str(encoder.dtype).removeprefix("torch.") if dtype is None else dtype,
        watched=one_file,
    )
    others = [output] if one_file and os.path.exists(output) else []
    tasks, done = Folder(job, *others).tasks(clips, tars)
    if done:
        print(f"audio2img: {done} of {len(clips)} sounds are encoded already", file=sys.stderr)
    total = 0 if tars else len(clips) - done
    tried, problems = 0, []
    reports = run_ray(job, tasks) if arguments.engine == "ray" else run_local(job, tasks, job.writer(encoder))
    del encoder  # of no use while waiting for a cluster
    with progress("encode", unit="sound") as on_step:
        for report in reports:
            tried += report.tried
            problems += report.problems
            for _, problem in report.problems:
                print(f"audio2img: error: {problem}", file=sys.stderr)
            on_step(tried, total)
    folder = Folder(job, *others)
    if not folder.done():
        raise ValueError(f"none of the {tried} sounds could be encoded")
    if one_file:
        bad = problems
        if folder.headers.keys() - set(others):
            export(folder, output)
    else:
        bad = folder.finish(problems)
    print(output)
    return 2 if bad else 0
