"""`audio2img encode`: many sounds to one safetensors file of embeddings."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..checks import message
from ..files import check_writable, find_sounds
from .common import MINI, add_cut_arguments, add_device_arguments, progress, quiet_libraries

HELP = "Encode sound files to one .safetensors file of embeddings; a stopped run goes on where it was."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="SOUND", help="sound or video files, or folders of them")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the .safetensors file to write")
    add_cut_arguments(parser)
    parser.add_argument("--encoder", default=MINI, help="folder, .safetensors file or hub id (default: mini)")
    parser.add_argument("--average", action="store_true", help="one embedding a sound, not one a window")
    parser.add_argument("--batch-size", type=int, metavar="N", help="windows at once (default: 8 on a GPU, else 1)")
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Encode what is not encoded yet; sounds that cannot be read are reported and left out."""
    from ..audio import check_part

    sounds = find_sounds(arguments.inputs)
    check_part(arguments.start, arguments.duration)
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise ValueError(f"batch-size must be at least 1, not {arguments.batch_size}")
    output = Path(arguments.output)
    if output.suffix != ".safetensors":
        raise ValueError(f"{output}: embeddings are written to a .safetensors file")
    check_writable(output.parent)
    quiet_libraries()
    from ..bulk import EmbeddingStore
    from ..devices import encoder_dtype, resolve_device
    from ..encoder import AudioEncoder

    device = resolve_device(arguments.device)
    dtype = encoder_dtype(device, arguments.encoder, arguments.dtype)
    encoder = AudioEncoder.from_pretrained(arguments.encoder, dtype=dtype).to(device)
    store = EmbeddingStore(
        output, encoder, start=arguments.start, duration=arguments.duration, average=arguments.average
    )
    failed = 0
    todo = [sound for sound in sounds if not store.has(sound)]
    if len(todo) < len(sounds):
        print(f"audio2img: {len(sounds) - len(todo)} of {len(sounds)} sounds are encoded already", file=sys.stderr)
    with progress("encode", unit="sound") as on_step:
        for number, sound in enumerate(todo):
            try:
                store.add(sound, batch_size=arguments.batch_size)
            except (ValueError, OSError) as error:
                failed += 1
                print(f"audio2img: error: {message(error)}", file=sys.stderr)
            on_step(number + 1, len(todo))
    if failed == len(sounds):
        raise ValueError(f"none of the {failed} sounds could be encoded; nothing was written")
    store.finish()
    print(output)
    return 2 if failed else 0
