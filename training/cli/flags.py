"""Settings as flags: one for each field of each section, with the text of the section's docstring as its help."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from ..config import DERIVED, SECTIONS, TRAINER, FitConfig, load_settings, merge_settings, preset_names, trainer_fields
from ..fields import field_help, nearest

_PLAIN = "run"  # the section whose flags need no name in front: --data is --run.data
_TRAINER_HELP = (
    "--trainer.FIELD X for every field of transformers' TrainingArguments, such as --trainer.learning_rate 1e-4, "
    "--trainer.max_steps 1000, --trainer.per_device_train_batch_size 32, --trainer.bf16, --trainer.torch_compile, "
    "--trainer.gradient_checkpointing, --trainer.dataloader_num_workers 4"
)
_DESTINATION = "setting:"  # in front of a flag's name among the parsed arguments


def add_settings(parser: argparse.ArgumentParser, sections: Iterable[str], *, preset: str) -> None:
    """Add --preset, --config and a flag for each field of these sections; --help shows the preset's values."""
    sections = list(sections)
    parser.usage = f"{parser.prog} [--preset NAME] [--config FILE] [--FIELD X] [--SECTION.FIELD X] ..."
    parser.add_argument(
        "--preset",
        default=preset,
        metavar="NAME",
        help=f"settings to start from: {', '.join(preset_names())} (default: {preset})",
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="YAML file of sections of fields; may be repeated"
    )
    shown: list[tuple[argparse.Action, str, str]] = []
    for name in sections:
        if name == TRAINER:
            continue
        group = parser.add_argument_group(f"section {name!r}")
        texts = field_help(SECTIONS[name])
        for field in fields(SECTIONS[name]):
            flags = [f"--{name}.{field.name}"]
            if name == _PLAIN:
                flags.insert(0, f"--{field.name.replace('_', '-')}")
            action = group.add_argument(
                *flags, dest=f"{_DESTINATION}{name}.{field.name}", metavar="X", nargs="?", const="true"
            )
            action.help = texts[field.name].rstrip(".").replace("%", "%%")
            shown.append((action, name, field.name))
    trainer = parser.add_argument_group(f"section {TRAINER!r}", _TRAINER_HELP) if TRAINER in sections else None
    parser.add_argument("-h", "--help", action=_Help, shown=shown, trainer=trainer)


def read_settings(arguments: argparse.Namespace, flags: Mapping[str, str] | None = None) -> FitConfig:
    """Load the preset, the files, the command's flags and then `flags` section.field -> text; the later one wins.

    Raises:
        ValueError: An unknown flag, field or preset (with the nearest name), or an impossible value.
        FileNotFoundError: No such file of settings or checkpoint.
    """
    known = {
        name.removeprefix(_DESTINATION): value
        for name, value in vars(arguments).items()
        if name.startswith(_DESTINATION)
    }
    given = {name: value for name, value in known.items() if value is not None}
    given |= more_flags(arguments.rest, known)
    return load_settings(arguments.preset, arguments.config, {**given, **(flags or {})})


def more_flags(rest: Iterable[str], known: Iterable[str] = ()) -> dict[str, str]:
    """Read `--section.field value` and `--section.field=value` among what argparse does not know; no value means true.

    Raises:
        ValueError: Any other word; the message has the nearest of the known names section.field.
    """
    flags: dict[str, str] = {}
    last: str | None = None
    for word in rest:
        match = re.fullmatch(r"--([\w-]+\.[\w.-]+)(?:=(.*))?", word, re.DOTALL)
        if match:
            flags[match[1]] = "true" if match[2] is None else match[2]
            last = match[1] if match[2] is None else None
        elif last is not None and not word.startswith("--"):
            flags[last], last = word, None
        else:
            flags_of = {name: f"{TRAINER}.{name}" for name in trainer_fields()} if known else {}
            names = (name.partition(".")[2] for name in known if name.startswith(f"{_PLAIN}."))
            flags_of |= {name: name.replace("_", "-") for name in names}
            close = nearest(word.lstrip("-").replace("-", "_"), flags_of)
            hint = f" (did you mean --{flags_of[close]}?)" if close else ""
            raise ValueError(f"unknown argument {word!r}{hint}; --help lists them")
    return flags


class _Help(argparse.Action):
    """--help with the defaults of the preset and of the files that were named before it."""

    def __init__(self, *, shown: list[tuple[argparse.Action, str, str]], trainer: Any, **options: Any):
        super().__init__(nargs=0, default=argparse.SUPPRESS, help="show this help message and exit", **options)
        self.shown, self.trainer = shown, trainer

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        try:
            settings = merge_settings(namespace.preset, namespace.config, {})
        except (ValueError, OSError) as error:
            parser.error(str(error))
        for action, section, field in self.shown:
            default = settings.get(section, {}).get(field, getattr(SECTIONS[section], field))
            if default not in ("", None) and f"{section}.{field}" not in DERIVED:
                action.help = f"{action.help} (default: {_text(default)})"
        if self.trainer is not None:
            values = ", ".join(f"{name} {_text(value)}" for name, value in settings.get(TRAINER, {}).items())
            self.trainer.description = f"{_TRAINER_HELP} (defaults: {values or 'those of transformers'})"
        parser.print_help()
        parser.exit()


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
