"""`audio2img film`: a sound in, a film out whose pictures change with it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..storage.files import check_writable, whole_file
from .common import (
    add_cut_arguments,
    add_device_arguments,
    add_drawing_arguments,
    add_model_arguments,
    add_prompt_arguments,
    excerpt_of,
    progress,
    quiet_libraries,
)

HELP = "Draw a film that changes with a sound."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("input", metavar="SOUND", help="sound or video file")
    parser.add_argument(
        "-o", "--output", required=True, metavar="PATH", help="an .mp4 name, or a folder for numbered pictures"
    )
    add_cut_arguments(parser)
    parser.add_argument("--fps", type=float, default=8.0, help="pictures a second (default: 8)")
    parser.add_argument("--frames", type=int, help="of the film (default: as long as the sound)")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="hear only every N-th frame, straight lines in between"
    )
    parser.add_argument("--window", type=float, metavar="S", help="seconds heard around a frame (default: learned)")
    parser.add_argument(
        "--smoothing", type=float, default=0.25, metavar="S", help="seconds over which is evened out (default: 0.25)"
    )
    add_prompt_arguments(parser)
    add_drawing_arguments(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="of every picture: the sound alone changes them (default: 0)"
    )
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="pictures drawn at once (default: 4)")
    add_model_arguments(parser)
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Hear the frames, draw them, write them."""
    from ..audio.io import load_audio

    excerpt = excerpt_of(arguments)
    output = Path(arguments.output)
    film = output.suffix.lower() == ".mp4" and not output.is_dir()
    if not film and output.suffix and not output.is_dir():
        raise ValueError(f"{output}: allowed are NAME.mp4 or a folder")
    if not film and output.is_dir() and any(output.iterdir()):
        raise ValueError(f"{output}: is not empty; pictures of a film go into a folder of their own")
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {arguments.batch_size}")
    check_writable(output.parent if film else output)
    waveform, rate = load_audio(arguments.input, start=excerpt.start, duration=excerpt.duration, sample_rate=None)
    quiet_libraries()
    from ..conditioning.schedule import schedule
    from ..generation.pipeline import AudioToImagePipeline
    from ..generation.video import draw_frames, write_film

    pipeline = AudioToImagePipeline.from_pretrained(
        arguments.encoder, arguments.diffusion, device=arguments.device, dtype=arguments.dtype
    )
    with progress("hearing", unit="window") as on_step:
        heard = schedule(
            pipeline.encoder,
            waveform,
            rate,
            fps=arguments.fps,
            frames=arguments.frames,
            every=arguments.every,
            window=arguments.window,
            smoothing=arguments.smoothing,
            on_step=on_step,
        )
    with progress("drawing", unit="picture") as on_step:
        images = draw_frames(
            pipeline,
            heard,
            prompt=arguments.prompt,
            prompt_weight=arguments.prompt_weight,
            negative=arguments.negative,
            steps=arguments.steps,
            guidance=arguments.guidance,
            seed=arguments.seed,
            size=arguments.size,
            batch_size=arguments.batch_size,
            on_step=on_step,
        )
        if film:
            length = round(len(heard.tokens) / arguments.fps * rate)
            write_film(output, images, fps=arguments.fps, waveform=waveform[:, :length], sample_rate=rate)
        else:
            for number, image in enumerate(images):
                with whole_file(output / f"{number:05d}.png") as partial:
                    image.save(partial, format="PNG")
    print(output)
    return 0
