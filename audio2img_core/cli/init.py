"""`audio2img init`: untrained models of a target."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..storage.files import check_writable, whole_folder
from ..targets import TARGETS
from .common import quiet_libraries

HELP = "Make an untrained encoder and diffusion model of a target: for tests, for sizing, to start a training."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("output", metavar="FOLDER", help="gets the folders `encoder` and `diffusion`")
    parser.add_argument("--target", required=True, choices=tuple(TARGETS), help="the text-encoder space")
    parser.add_argument(
        "--size", choices=("tiny", "full"), default="tiny", help="tiny, or as published (default: tiny)"
    )
    parser.add_argument(
        "--head", choices=("query", "conv"), default="query", help="the encoder's head (default: query)"
    )
    parser.add_argument("--only", choices=("encoder", "diffusion"), help="make one of the two")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: 0)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights")


def run(arguments: argparse.Namespace) -> int:
    """Make and write the models."""
    output = Path(arguments.output)
    wanted = [arguments.only] if arguments.only else ["encoder", "diffusion"]
    for name in wanted:
        if (output / name).exists():
            raise ValueError(f"{output / name}: exists already; choose another folder or remove it")
    check_writable(output)
    quiet_libraries()
    from ..conditioning.text import encode_text
    from ..devices import DTYPES
    from ..encoder.checkpoint import save_folder
    from ..random_init import make_diffusion, make_encoder

    dtype = DTYPES[arguments.dtype]
    options = {"size": arguments.size, "seed": arguments.seed}
    null = None
    if "diffusion" in wanted:
        diffusion = make_diffusion(arguments.target, **options)
        null = encode_text(diffusion, "")
        with whole_folder(output / "diffusion") as partial:
            diffusion.to(dtype).save_pretrained(partial)
        del diffusion
        print(output / "diffusion")
    if "encoder" in wanted:
        encoder = make_encoder(arguments.target, head=arguments.head, **options)
        if null is not None:
            encoder.set_teacher(null.tokens[0], null_pooled=None if null.pooled is None else null.pooled[0])
        save_folder(encoder.to(dtype), output / "encoder")  # pyright: ignore[reportArgumentType]
        print(output / "encoder")
    return 0
