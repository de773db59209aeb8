"""What several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ..audio.excerpt import Excerpt

MINI = "mini"


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """--device and --dtype."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the GPU where there is one)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "int8"),
        help="of the weights (default: bfloat16 for the encoder where the device computes with it, float16 for the "
        "diffusion model on a GPU, float32 elsewhere); int8: of the encoder's weights alone",
    )


def add_engine_arguments(parser: argparse.ArgumentParser, *, local: str, size: str) -> None:
    """--engine and --shard-size, which was once called --part-size.

    Args:
        local: what the engine of that name is. size: the default size of a shard, in words.
    """
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help=f"what does the work: {local}, or a Ray cluster (default: local)",
    )
    parser.add_argument("--shard-size", "--part-size", type=int, metavar="N", help=f"clips per shard (default: {size})")


def add_cut_arguments(parser: argparse.ArgumentParser) -> None:
    """--start and --duration."""
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="seconds to skip (default: 0)")
    parser.add_argument("--duration", type=float, metavar="S", help="seconds to read (default: to the end)")


def excerpt_of(arguments: argparse.Namespace) -> Excerpt:
    """The part of a sound that --start and --duration ask for.

    Raises:
        ValueError: one is impossible; the message names the flag.
    """
    try:
        return Excerpt(arguments.start, arguments.duration)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """--prompt, --prompt-weight and --negative."""
    parser.add_argument("--prompt", metavar="TEXT", help="text mixed with the sound")
    parser.add_argument("--prompt-weight", type=float, default=0.5, metavar="W", help="0: sound only, 1: text only")
    parser.add_argument("--negative", metavar="TEXT", help="text to steer away from (default: the empty prompt)")


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """--steps, --guidance and --size."""
    parser.add_argument("--steps", type=int, help="sampler steps (default: 12 for mini, else 20)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance (default: 5 for mini, else 7.5)")
    parser.add_argument(
        "--size", type=parse_size, metavar="WxH", help="in pixels, such as 512x768 (default: the model's)"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--encoder and --diffusion."""
    for part in ("encoder", "diffusion"):
        parser.add_argument(f"--{part}", default=MINI, help="folder, .safetensors file or hub id (default: mini)")


def quiet_libraries() -> None:
    """No progress bars and warnings of the model libraries; to be called before the models are loaded."""
    import diffusers
    import transformers

    for library in (transformers, diffusers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def parse_size(text: str) -> tuple[int, int]:
    """ "512x768" -> (512, 768)."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write WIDTHxHEIGHT, such as 512x768") from None
    return width, height


@contextmanager
def progress(label: str, *, unit: str = "step") -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr from the first `on_step(done, total)` to the last one; on a terminal only. total 0 = unknown."""
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: list[tqdm] = []

        def on_step(done: int, total: int) -> None:
            if not bars:
                bars.append(
                    stack.enter_context(tqdm(desc=label, unit=unit, leave=False, disable=None, file=sys.stderr))
                )
            bars[0].total = total or None
            bars[0].update(done - bars[0].n)
            if done == total:
                bars.pop().close()

        yield on_step
