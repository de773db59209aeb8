"""What several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ..checks import one_line

MINI = "mini"


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """--device and --dtype."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the GPU where there is one)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights (default: float16 on a GPU, float32 elsewhere)",
    )


def add_cut_arguments(parser: argparse.ArgumentParser) -> None:
    """--start and --duration."""
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="seconds to skip (default: 0)")
    parser.add_argument("--duration", type=float, metavar="S", help="seconds to read (default: to the end)")


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


def message(error: BaseException) -> str:
    """An error's message as one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return one_line(str(error)) or type(error).__name__
