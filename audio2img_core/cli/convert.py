"""`audio2img convert`: between the forms of an encoder's checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..generation.families import takes_pooled, token_width
from ..targets import check_fits
from .common import quiet_libraries

HELP = "Convert an encoder between folder and single .safetensors file; take in a plain Wav2Vec2-BERT folder."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("source", metavar="ENCODER", help="folder, .safetensors file or hub id")
    parser.add_argument("output", metavar="OUTPUT", help="NAME.safetensors for one file, else a new folder")
    parser.add_argument(
        "--diffusion", metavar="MODEL", help="take the empty prompt from this diffusion model's text encoder"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights (default: as they are)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Load, complete and write."""
    output = Path(arguments.output)
    if output.exists() and (output.suffix == ".safetensors" or not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: exists already; choose another name or remove it")
    quiet_libraries()
    from ..conditioning.text import encode_text
    from ..encoder.checkpoint import save
    from ..encoder.model import AudioEncoder
    from ..generation.loading import load_diffusion

    encoder = AudioEncoder.from_pretrained(arguments.source, dtype=arguments.dtype or "auto")
    if arguments.diffusion:
        diffusion = load_diffusion(arguments.diffusion)
        check_fits(encoder.config.target, token_width(diffusion), pooled=takes_pooled(diffusion))
        null = encode_text(diffusion, "")
        encoder.set_teacher(null.tokens[0], null_pooled=None if null.pooled is None else null.pooled[0])
    save(encoder, output)
    print(output)
    return 0
