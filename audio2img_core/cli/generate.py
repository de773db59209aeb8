"""`audio2img generate`: sounds in, pictures out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .. import __version__
from ..audio.clips import find_audio
from ..checks import message
from ..generation.png import open_image, write_picture
from ..storage.files import check_writable, free_name
from .common import (
    MINI,
    add_cut_arguments,
    add_device_arguments,
    add_drawing_arguments,
    add_model_arguments,
    add_prompt_arguments,
    excerpt_of,
    progress,
    quiet_libraries,
)

HELP = "Draw pictures of what is heard in sound files."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="SOUND", help="sound or video files, or folders of them")
    parser.add_argument(
        "-o",
        "--output",
        default=".",
        metavar="PATH",
        help="a .png name, written over (NAME-SOUND-SEED.png where there are several), else a folder (default: here)",
    )
    add_cut_arguments(parser)
    add_prompt_arguments(parser)
    parser.add_argument(
        "--sound-strength", type=float, default=1.0, metavar="X", help="0: nothing, 1: the sound, 1.5: more"
    )
    parser.add_argument(
        "--windows",
        choices=("average", "join", "keep"),
        default="average",
        help="of clips longer than one window: average or join them, or keep a picture each",
    )
    add_drawing_arguments(parser)
    parser.add_argument("--seed", type=int, help="of the first picture, the next count up (default: by chance)")
    parser.add_argument("--count", type=int, default=1, help="pictures a sound (default: 1)")
    add_model_arguments(parser)
    parser.add_argument("--controlnet", metavar="PATH", help="folder or hub id of a ControlNet")
    parser.add_argument("--control-image", metavar="FILE", help="picture for the ControlNet")
    parser.add_argument("--control-scale", type=float, default=1.0, metavar="X", help="weight of the ControlNet")
    parser.add_argument("--init-image", metavar="FILE", help="picture to start from")
    parser.add_argument(
        "--strength", type=float, default=0.8, metavar="X", help="how far to go from --init-image, 0 to 1"
    )
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Draw each sound; a sound that cannot be read is reported and the others go on."""
    sounds = find_audio(arguments.inputs)
    output = Path(arguments.output)
    excerpt_of(arguments)
    single = output.suffix.lower() == ".png" and not output.is_dir()
    if not single and output.suffix and not output.is_dir():
        raise ValueError(f"{output}: pictures are written as .png; allowed are NAME.png or a folder")
    check_writable(output.parent if single else output)
    init_image, control_image = open_image(arguments.init_image), open_image(arguments.control_image)
    quiet_libraries()
    from ..conditioning.zero_shot import say_heard
    from ..generation.pipeline import AudioToImagePipeline

    pipeline = AudioToImagePipeline.from_pretrained(
        arguments.encoder,
        arguments.diffusion,
        controlnet=arguments.controlnet,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    failed = 0
    for sound in sounds:
        try:
            with progress(sound.name) as on_step:
                drawn = pipeline(
                    sound,
                    prompt=arguments.prompt,
                    prompt_weight=arguments.prompt_weight,
                    negative=arguments.negative,
                    sound_strength=arguments.sound_strength,
                    windows=arguments.windows,
                    start=arguments.start,
                    duration=arguments.duration,
                    steps=arguments.steps,
                    guidance=arguments.guidance,
                    seed=arguments.seed,
                    count=arguments.count,
                    size=arguments.size,
                    init_image=init_image,
                    strength=arguments.strength,
                    control_image=control_image,
                    control_scale=arguments.control_scale,
                    on_step=on_step,
                )
        except (ValueError, OSError) as error:
            if len(sounds) == 1 or arguments.debug:
                raise
            failed += 1
            print(f"audio2img: error: {message(error)}", file=sys.stderr)
            continue
        if arguments.encoder == MINI and arguments.diffusion == MINI:
            print(f"{sound.name}: heard {say_heard(pipeline.hear(drawn.embeddings)[0])}", file=sys.stderr)
        windows = len(drawn.images) // arguments.count
        for number, (image, seed) in enumerate(zip(drawn.images, drawn.seeds, strict=True)):
            window = f"-w{number // arguments.count + 1}" if windows > 1 else ""
            suffix = f"{window}-{seed}" if arguments.count > 1 else window
            name = picture_name(output, sound, suffix, into_folder=not single, several=len(sounds) > 1)
            write_picture(image, name, settings(arguments, pipeline.defaults, sound, seed))
            print(name)
    return 2 if failed else 0


def picture_name(output: Path, sound: Path, suffix: str, *, into_folder: bool, several: bool) -> Path:
    """Where a picture goes: to the very name that was asked for, else to one that nothing has yet."""
    if into_folder:
        return free_name(output / f"{sound.stem}{suffix}.png")
    if not several and not suffix:
        return output
    return free_name(output.with_name(f"{output.stem}{f'-{sound.stem}' if several else ''}{suffix}{output.suffix}"))


def settings(arguments: argparse.Namespace, defaults: Any, sound: Path, seed: int) -> dict[str, Any]:
    """What the picture was made with, as its metadata tell."""
    left_out = {"inputs", "output", "run", "command", "debug", "count", "seed", "rest", "takes_rest"}
    for option, its_own in (("prompt", "prompt_weight"), ("init_image", "strength"), ("controlnet", "control_scale")):
        if getattr(arguments, option) is None:
            left_out.add(its_own)
    options = {name: value for name, value in vars(arguments).items() if name not in left_out and value is not None}
    drawn = {"steps": defaults.steps, "guidance": defaults.guidance, **options}
    return {"audio2img": __version__, "sound": sound.name, "seed": seed, **drawn}
