"""`audio2img film`: a video that changes with a sound."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from ..checks import check_setting
from ..storage.files import check_writable, whole_file
from .common import (
    add_cut_arguments,
    add_device_arguments,
    add_generation_arguments,
    add_model_arguments,
    generation_settings,
    progress,
    quiet_libraries,
)

HELP = "Generate a video that changes with a sound."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("input", metavar="SOUND", help="sound or video file")
    parser.add_argument(
        "-o", "--output", required=True, metavar="PATH", help="an .mp4 name, or a folder for numbered pictures"
    )
    add_cut_arguments(parser)
    parser.add_argument("--fps", type=float, default=8.0, metavar="F", help="images a second (default: 8)")
    parser.add_argument("--frames", type=int, metavar="N", help="number of images (default: as long as the sound)")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="keyframe interval: encode every N-th frame and interpolate between them (default: 1)",
    )
    parser.add_argument(
        "--window", type=float, metavar="S", help="seconds of sound around a frame (default: the encoder's window)"
    )
    parser.add_argument(
        "--smoothing",
        type=float,
        default=0.25,
        metavar="S",
        help="standard deviation of the temporal smoothing, in seconds (default: 0.25)",
    )
    add_generation_arguments(
        *(parser, "prompt", "prompt_weight", "blend_mode", "negative", "sound_strength", "steps", "guidance", "size"),
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of every image (default: 0)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="images generated at once (default: 4)")
    add_model_arguments(parser)
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Encode the frames, generate an image for each, write them."""
    from ..audio.io import load_audio
    from ..conditioning.schedule import ScheduleSettings, schedule

    settings = generation_settings(arguments)
    course = ScheduleSettings(**{field.name: getattr(arguments, field.name) for field in fields(ScheduleSettings)})
    check_setting("batch_size", arguments.batch_size, least=1)
    output = Path(arguments.output)
    film = output.suffix.lower() == ".mp4" and not output.is_dir()
    if not film and output.suffix and not output.is_dir():
        raise ValueError(f"{output}: allowed are NAME.mp4 or a folder")
    if not film and output.is_dir() and any(output.iterdir()):
        raise ValueError(f"{output}: is not empty; pictures of a film go into a folder of their own")
    check_writable(output.parent if film else output)
    waveform, rate = load_audio(arguments.input, start=settings.start, duration=settings.duration, sample_rate=None)
    course.count_frames(waveform.shape[1] / rate)
    quiet_libraries()
    from ..generation.pipeline import AudioToImagePipeline
    from ..generation.video import draw_frames, write_film

    pipeline = AudioToImagePipeline.from_pretrained(
        arguments.encoder, arguments.diffusion, device=arguments.device, dtype=arguments.dtype, settings=settings
    )
    with progress("encoding", unit="window") as on_step:
        heard = schedule(pipeline.encoder, waveform, rate, course, on_step=on_step)
    with progress("generating", unit="image") as on_step:
        images = draw_frames(pipeline, heard, settings, batch_size=arguments.batch_size, on_step=on_step)
        if film:
            length = round(len(heard.tokens) / arguments.fps * rate)
            write_film(output, images, fps=arguments.fps, waveform=waveform[:, :length], sample_rate=rate)
        else:
            for number, image in enumerate(images):
                with whole_file(output / f"{number:05d}.png") as partial:
                    image.save(partial, format="PNG")
    print(output)
    return 0
