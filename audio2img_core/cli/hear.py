"""`audio2img hear`: what is heard, in words."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..audio.clips import find_audio
from ..storage.files import check_writable, whole_file
from .common import MINI, add_cut_arguments, add_device_arguments, excerpt_of, progress, quiet_libraries

HELP = "Say which captions fit a sound."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="SOUND", help="sound or video files, or folders of them")
    parser.add_argument(
        "--captions", metavar="FILE", help="a text file, a caption a line, to choose from (default: those of mini)"
    )
    parser.add_argument("--top", type=int, default=3, metavar="N", help="captions that are named (default: 3)")
    parser.add_argument("--bars", metavar="PNG", help="also draw the scores; for a single sound")
    parser.add_argument("--spectrogram", metavar="PNG", help="also draw what goes in; for a single sound")
    add_cut_arguments(parser)
    parser.add_argument("--encoder", default=MINI, help="folder, .safetensors file or hub id (default: mini)")
    parser.add_argument("--diffusion", default=MINI, help="whose text encoder reads the captions (default: mini)")
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """A line for each sound: its name, and captions with their scores."""
    from ..audio.io import SAMPLE_RATE
    from ..audio.waveform import read_clips
    from ..conditioning.zero_shot import read_captions, say_heard
    from ..plots import draw_scores, draw_spectrogram

    excerpt = excerpt_of(arguments)
    sounds = find_audio(arguments.inputs)
    pictures = [Path(path) for path in (arguments.bars, arguments.spectrogram) if path]
    if pictures and len(sounds) > 1:
        raise ValueError(f"--bars and --spectrogram draw a single sound, not {len(sounds)}")
    for path in pictures:
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: pictures are written as .png")
        check_writable(path.parent)
    if arguments.top < 1:
        raise ValueError(f"--top must be at least 1, not {arguments.top}")
    captions = None
    if arguments.captions:
        captions = read_captions(Path(arguments.captions).read_text(encoding="utf-8"))
    elif arguments.encoder != MINI and arguments.diffusion == MINI:
        print("chosen among the things that mini draws; --captions FILE names others", file=sys.stderr)
    quiet_libraries()
    from ..generation.pipeline import AudioToImagePipeline

    pipeline = AudioToImagePipeline.from_pretrained(
        arguments.encoder, arguments.diffusion, device=arguments.device, dtype=arguments.dtype
    )
    for sound in sounds:
        (waveform,) = read_clips(sound, excerpt)
        with progress(sound.name, unit="window") as on_step:
            heard = pipeline.encode((waveform, SAMPLE_RATE), on_step=on_step)
        (named,) = pipeline.hear(heard, captions, top=arguments.top)
        print(f"{sound.name}: {say_heard(named)}")
        if arguments.bars:
            with whole_file(arguments.bars) as partial:
                draw_scores(named).save(partial, format="PNG")
        if arguments.spectrogram:
            with whole_file(arguments.spectrogram) as partial:
                draw_spectrogram(waveform).save(partial, format="PNG")
    return 0
