"""What several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from typing import Any

from ..audio.excerpt import Excerpt
from ..conditioning.modes import BLEND_MODES, WINDOW_MODES
from ..generation.png import open_image
from ..generation.settings import GenerationSettings

MINI = "mini"
_IMAGES = ("init_image", "control_image")


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


class _Flag(argparse.Action):
    """Store a value, and which of its option's spellings was typed, for messages."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.flags = {**getattr(namespace, "flags", {}), self.dest: option_string}


def parse_size(text: str) -> tuple[int, int]:
    """ "512x768" -> (512, 768)."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write WIDTHxHEIGHT, such as 512x768") from None
    return width, height


# Field of GenerationSettings -> how the command line asks for it. The flag is the field's name with hyphens.
_OPTIONS: dict[str, dict[str, Any]] = {
    "start": {"type": float, "metavar": "S", "help": "seconds to skip (default: 0)"},
    "duration": {"type": float, "metavar": "S", "help": "seconds to read (default: to the end)"},
    "prompt": {"metavar": "TEXT", "help": "text to blend with the sound"},
    "prompt_weight": {
        "type": float,
        "metavar": "W",
        "help": "share of the text: 0 for the sound only, 1 for the text only (default: 0.5)",
    },
    "blend_mode": {"choices": BLEND_MODES, "help": "way to blend sound and text (default: linear)"},
    "negative": {"metavar": "TEXT", "help": "text to steer away from (default: the unconditional prompt)"},
    "sound_strength": {
        "type": float,
        "metavar": "X",
        "help": "strength of the sound: 0 for none, 1 as encoded, 1.5 for more (default: 1)",
    },
    "windows": {
        "choices": WINDOW_MODES,
        "help": "treatment of clips longer than one window: average or join the windows, or keep an image for each "
        "(default: average)",
    },
    "steps": {"type": int, "metavar": "N", "help": "sampler steps (default: 12 for mini, else 20)"},
    "guidance": {"type": float, "metavar": "G", "help": "classifier-free guidance (default: 5 for mini, else 7.5)"},
    "size": {"type": parse_size, "metavar": "WxH", "help": "image size, such as 512x768 (default: the model's)"},
    "seed": {"type": int, "metavar": "N", "help": "seed of the first image, the next ones count up (default: random)"},
    "count": {"type": int, "metavar": "N", "help": "images for each sound (default: 1)"},
    "control_image": {"metavar": "FILE", "help": "image for the ControlNet"},
    "control_scale": {"type": float, "metavar": "X", "help": "weight of the ControlNet (default: 1)"},
    "init_image": {"metavar": "FILE", "help": "image to start from"},
    "denoise": {
        "type": float,
        "metavar": "X",
        "action": _Flag,
        "help": "how far to go from --init-image, 0 to 1 (default: 0.8)",
    },
}
_OLD_FLAGS = {"denoise": ["--strength"]}
_DEFAULTS = {field.name: field.default for field in fields(GenerationSettings)}


def add_generation_arguments(parser: argparse.ArgumentParser, *names: str, **defaults: Any) -> None:
    """The flags of some fields of `GenerationSettings`; `defaults` of a command's own take the place of theirs."""
    for name in names:
        option = {"default": defaults.get(name, _DEFAULTS[name]), **_OPTIONS[name]}
        parser.add_argument("--" + name.replace("_", "-"), *_OLD_FLAGS.get(name, []), dest=name, **option)


def generation_settings(arguments: argparse.Namespace) -> GenerationSettings:
    """The settings that the flags give, their images opened.

    Raises:
        SettingError: A value that is not allowed. OSError, ValueError: An image that cannot be read.
    """
    given = {name: value for name, value in vars(arguments).items() if name in _DEFAULTS}
    images = {name: open_image(given[name]) for name in _IMAGES if name in given}
    return GenerationSettings(**{**given, **images})


def add_cut_arguments(parser: argparse.ArgumentParser) -> None:
    """--start and --duration."""
    add_generation_arguments(parser, "start", "duration")


def excerpt_of(arguments: argparse.Namespace) -> Excerpt:
    """The part of a sound that --start and --duration ask for.

    Raises:
        ValueError: one is impossible; the message names the flag.
    """
    try:
        return Excerpt(arguments.start, arguments.duration)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


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
