"""`audio2img encode`: many sounds to embeddings, in one safetensors file or in parts that machines share."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path, PurePath

from ..audio.clips import find_audio
from ..checks import message
from ..storage.files import check_writable
from ..storage.manifests import manifest_kind
from ..storage.paths import absolute, base_name, is_url
from ..storage.shards import is_tar
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

HELP = "Encode sounds to embeddings, in one .safetensors file or in a folder of parts; a stopped run goes on."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="SOUND",
        help="sound or video files, or folders of them; into parts also manifests (.csv, .tsv, .jsonl, .parquet), tar "
        "shards (sounds-{000..012}.tar) and addresses (s3://, gs://, ...)",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="PLACE", help="a .safetensors file, or a folder or address for parts"
    )
    add_cut_arguments(parser)
    parser.add_argument("--encoder", default=MINI, help="folder, .safetensors file or hub id (default: mini)")
    parser.add_argument("--average", action="store_true", help="one embedding a sound, not one a window")
    parser.add_argument("--batch-size", type=int, metavar="N", help="windows at once (default: 8 on a GPU, else 1)")
    add_engine_arguments(parser, local="this process", ray="parts", unit="sounds in a part", size=256)
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Encode what is not encoded yet; sounds that cannot be read are reported and left out."""
    for name in ("batch_size", "part_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"{name.replace('_', '-')} must be at least 1, not {value}")
    excerpt_of(arguments)
    suffix = PurePath(base_name(arguments.output)).suffix.lower()
    one_file = suffix == ".safetensors"
    if (one_file and (is_url(arguments.output) or arguments.engine == "ray")) or suffix in _OTHER_FILES:
        raise ValueError(
            f"{arguments.output}: embeddings go to one local .safetensors file or in parts, as by the engine ray, to "
            "a folder or an address"
        )
    if one_file:
        many = [name for name in arguments.inputs if is_url(name) or is_tar(name) or manifest_kind(name)]
        if many:
            raise ValueError(f"{many[0]}: addresses, manifests and tar shards are encoded into parts: -o FOLDER")
        return _to_file(arguments)
    return _to_parts(arguments)


def _to_file(arguments: argparse.Namespace) -> int:
    sounds = find_audio(arguments.inputs)
    output = Path(arguments.output)
    check_writable(output.parent)
    quiet_libraries()
    from ..batch import EmbeddingStore
    from ..batch.embed import load_encoder

    encoder = load_encoder(arguments.encoder, device=arguments.device, dtype=arguments.dtype)
    store = EmbeddingStore(
        output, encoder, start=arguments.start, duration=arguments.duration, average=arguments.average
    )
    failed = 0
    todo = [sound for sound in sounds if not store.has(sound)]
    _tell_done(len(sounds) - len(todo), len(sounds))
    with progress("encode", unit="sound") as on_step:
        for number, sound in enumerate(todo):
            try:
                store.add(sound, batch_size=arguments.batch_size)
            except (ValueError, OSError) as error:
                failed += 1
                _tell_problem(message(error))
            on_step(number + 1, len(todo))
    if failed == len(sounds):
        raise ValueError(f"none of the {failed} sounds could be encoded; nothing was written")
    store.finish()
    print(output)
    return 2 if failed else 0


def _to_parts(arguments: argparse.Namespace) -> int:
    from ..audio.clips import list_clips

    sounds, shards = list_clips(arguments.inputs)
    if not is_url(arguments.output):
        check_writable(arguments.output)
    quiet_libraries()
    from ..batch.embed import EncodeJob, load_encoder
    from ..batch.jobs import Folder, run_local
    from ..batch.store import settings_of

    device, dtype = arguments.device, arguments.dtype
    if arguments.engine == "ray":
        from ..batch.ray_engine import has_gpus, run_ray

        gpus = has_gpus()  # asked first: a cluster that is not there is said before anything is loaded
        device = "cpu"  # of the encoder that is only looked at here
        if gpus and dtype is None and arguments.device is None and arguments.encoder != MINI:
            dtype = "bfloat16"  # of all machines, also where this one would take another by itself
    encoder = load_encoder(arguments.encoder, device=device, dtype=dtype)
    job = EncodeJob(
        output=absolute(arguments.output),
        encoder=absolute(arguments.encoder) if os.path.exists(arguments.encoder) else arguments.encoder,
        settings=settings_of(encoder, start=arguments.start, duration=arguments.duration, average=arguments.average),
        size=arguments.part_size,
        batch_size=arguments.batch_size,
        device=arguments.device,
        dtype=str(encoder.dtype).removeprefix("torch.") if dtype is None else dtype,
    )
    tasks, done = Folder(job).tasks(sounds, shards)
    _tell_done(done, len(sounds))
    total = 0 if shards else len(sounds) - done
    tried, problems = 0, []
    reports = run_ray(job, tasks) if arguments.engine == "ray" else run_local(job, tasks, job.writer(encoder))
    del encoder  # of no use to who waits for a cluster
    with progress("encode", unit="sound") as on_step:
        for report in reports:
            tried += report.tried
            problems += report.problems
            for _, problem in report.problems:
                _tell_problem(problem)
            on_step(tried, total)
    folder = Folder(job)
    if not folder.done():
        raise ValueError(f"none of the {tried} sounds could be encoded")
    bad = folder.finish(problems)
    print(arguments.output)
    return 2 if bad else 0


def _tell_done(done: int, of: int) -> None:
    if done:
        print(f"audio2img: {done} of {of} sounds are encoded already", file=sys.stderr)


def _tell_problem(problem: str) -> None:
    print(f"audio2img: error: {problem}", file=sys.stderr)
