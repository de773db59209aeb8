"""A program of several commands: parsing, errors of one line, and exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from .. import __version__
from ..checks import SettingError, first_line, message, one_line


def run_program(
    name: str, description: str, commands: Sequence[ModuleType], argv: Sequence[str] | None, *, log: Sequence[str]
) -> int:
    """Parse and run one of the commands.

    Args:
        name: of the program.
        description: what it is for.
        commands: modules with HELP, add_arguments(parser) and run(arguments); named as the command is. One with
            TAKES_REST finds the arguments that the parser does not know in `arguments.rest`; one with OWN_HELP adds
            --help itself.
        argv: None = of the process.
        log: names of the packages whose messages are shown.

    Returns:
        The exit code: 0 done, 1 a fault that no user foresaw, 2 bad input, 130 interrupted.
    """
    parser = _Parser(name, prog=name, description=description)
    parser.add_argument("--version", action="version", version=f"audio2img {__version__}")
    below = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        parser_class=lambda **options: _Parser(name, **options),  # pyright: ignore[reportArgumentType]
    )
    for module in commands:
        command = below.add_parser(
            module.__name__.rsplit(".", 1)[-1],
            help=module.HELP,
            description=module.HELP,
            add_help=not getattr(module, "OWN_HELP", False),
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(command)
        command.set_defaults(run=module.run, takes_rest=getattr(module, "TAKES_REST", False))
    arguments, arguments.rest = parser.parse_known_args(argv)
    if arguments.rest and not arguments.takes_rest:
        below.choices[arguments.command].error(f"unrecognized arguments: {' '.join(arguments.rest)}")
    _quiet(name, arguments.debug, log)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; whatever is still buffered must not raise at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if arguments.debug:
            raise
        try:
            return _reported(name, error, arguments)
        except RuntimeError as cause:
            # The signal of a dead data worker, which torch raises wherever the program stands, comes while its first
            # consequence, such as a connection that was reset, is reported.
            return _reported(name, cause, arguments)


def _reported(name: str, error: Exception, arguments: argparse.Namespace) -> int:
    """Print an error as one line; returns the exit code."""
    if isinstance(error, (ValueError, OSError, ImportError)):
        print(f"{name}: error: {_explained(error, arguments)}", file=sys.stderr)
        return 2
    # Out of memory, of the machine or of the GPU, or a fault of ours: no user's mistake that we foresaw.
    words = first_line(error) if str(error) else type(error).__name__
    print(f"{name}: failed: {words} (--debug shows where)", file=sys.stderr)
    return 1


def _explained(error: BaseException, arguments: argparse.Namespace) -> str:
    """An error as one line, in which a setting has the name of the flag that was typed."""
    if isinstance(error, SettingError) and hasattr(arguments, error.name):
        flag = getattr(arguments, "flags", {}).get(error.name) or "--" + error.name.replace("_", "-")
        return one_line(f"{flag} {error.problem}")
    return message(error)


class _Parser(argparse.ArgumentParser):
    """Errors of one line, as all ours; argparse's own comes with a page of usage."""

    def __init__(self, program: str, **options):
        super().__init__(allow_abbrev=False, **options)
        self.program = program

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.program}: error: {message} ({self.prog} --help)\n")


def _quiet(name: str, debug: bool, packages: Sequence[str]) -> None:
    """Our own messages as one line each; the libraries' chatter only with --debug."""
    for library in ("torchao", "torch.utils._pytree"):  # what torchao says of kernels for other machines
        logging.getLogger(library).setLevel(logging.ERROR)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    for package in packages:
        logger = logging.getLogger(package)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        logger.propagate = False
    if not debug:
        warnings.filterwarnings("ignore")
        # Read when the libraries are first imported, which the commands do later.
        for library in ("TRANSFORMERS", "DIFFUSERS"):
            os.environ.setdefault(f"{library}_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
