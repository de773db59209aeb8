"""Parsing, errors and exit codes of the command line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..checks import first_line
from . import convert, encode, generate, info, init
from .common import message

COMMANDS = (generate, encode, info, convert, init)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    parser = _Parser(prog="audio2img", description="Sound as a prompt: draw what is heard.")
    parser.add_argument("--version", action="version", version=f"audio2img {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        name = module.__name__.rsplit(".", 1)[-1]
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    _quiet(arguments.debug)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("audio2img: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; whatever is still buffered must not raise at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if arguments.debug:
            raise
        print(f"audio2img: error: {message(error)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        # Out of memory, of the machine or of the GPU, or a fault of ours: no user's mistake that we foresaw.
        if arguments.debug:
            raise
        words = first_line(error) if str(error) else type(error).__name__
        print(f"audio2img: failed: {words} (--debug shows where)", file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    """Errors of one line, as all ours; argparse's own comes with a page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"audio2img: error: {message} ({self.prog} --help)\n")


def _quiet(debug: bool) -> None:
    """Our own warnings as one line each; the libraries' chatter only with --debug."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("audio2img: %(message)s"))
    logger = logging.getLogger(__package__.split(".")[0])
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
    if not debug:
        warnings.filterwarnings("ignore")
        # Read when the libraries are first imported, which the commands do later.
        for library in ("TRANSFORMERS", "DIFFUSERS"):
            os.environ.setdefault(f"{library}_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
