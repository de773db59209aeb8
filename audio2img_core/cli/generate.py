"""`audio2img generate`: images from sounds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..audio.clips import find_audio
from ..checks import message
from ..generation.png import picture_metadata, write_picture
from ..storage.files import check_writable, free_name
from .common import (
    MINI,
    add_device_arguments,
    add_generation_arguments,
    add_model_arguments,
    generation_settings,
    progress,
    quiet_libraries,
)

HELP = "Generate images from sound files."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="SOUND", help="sound or video files, or folders of them")
    parser.add_argument(
        "-o",
        "--output",
        default=".",
        metavar="PATH",
        help="output .png (overwritten; with several images: NAME-SOUND-SEED.png) or folder (default: current folder)",
    )
    add_generation_arguments(
        *(parser, "start", "duration", "prompt", "prompt_weight", "blend_mode", "negative", "sound_strength"),
        *("windows", "steps", "guidance", "size", "seed", "count"),
    )
    add_model_arguments(parser)
    parser.add_argument("--controlnet", metavar="PATH", help="folder or hub id of a ControlNet")
    add_generation_arguments(parser, "control_image", "control_scale", "init_image", "denoise")
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Generate from each sound; a sound that cannot be read is reported and the others go on."""
    settings = generation_settings(arguments)
    sounds = find_audio(arguments.inputs)
    output = Path(arguments.output)
    single = output.suffix.lower() == ".png" and not output.is_dir()
    if not single and output.suffix and not output.is_dir():
        raise ValueError(f"{output}: pictures are written as .png; allowed are NAME.png or a folder")
    check_writable(output.parent if single else output)
    quiet_libraries()
    from ..conditioning.zero_shot import say_heard
    from ..generation.pipeline import AudioToImagePipeline

    pipeline = AudioToImagePipeline.from_pretrained(
        arguments.encoder,
        arguments.diffusion,
        controlnet=arguments.controlnet,
        device=arguments.device,
        dtype=arguments.dtype,
        settings=settings,
    )
    images = {name: getattr(arguments, name) for name in ("init_image", "control_image")}
    failed = 0
    for sound in sounds:
        try:
            with progress(sound.name) as on_step:
                made = pipeline(sound, settings, on_step=on_step)
        except (ValueError, OSError) as error:
            if len(sounds) == 1 or arguments.debug:
                raise
            failed += 1
            print(f"audio2img: error: {message(error)}", file=sys.stderr)
            continue
        if arguments.encoder == MINI and arguments.diffusion == MINI:
            print(f"{sound.name}: heard {say_heard(pipeline.hear(made.embeddings)[0])}", file=sys.stderr)
        windows = len(made.images) // settings.count
        for number, (image, seed) in enumerate(zip(made.images, made.seeds, strict=True)):
            window = f"-w{number // settings.count + 1}" if windows > 1 else ""
            suffix = f"{window}-{seed}" if settings.count > 1 else window
            name = picture_name(output, sound, suffix, into_folder=not single, several=len(sounds) > 1)
            told = picture_metadata(made.settings, sound=sound.name, seed=seed, names={**pipeline.names, **images})
            write_picture(image, name, told)
            print(name)
    return 2 if failed else 0


def picture_name(output: Path, sound: Path, suffix: str, *, into_folder: bool, several: bool) -> Path:
    """Where a picture goes: to the very name that was asked for, else to one that nothing has yet."""
    if into_folder:
        return free_name(output / f"{sound.stem}{suffix}.png")
    if not several and not suffix:
        return output
    return free_name(output.with_name(f"{output.stem}{f'-{sound.stem}' if several else ''}{suffix}{output.suffix}"))
