"""Settings as flags: one for each field of each section, with the comment behind the field as its help."""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from ..config import SECTIONS, TRAINER, FitConfig, load_settings, trainer_fields

_PLAIN = "run"  # the section whose flags need no name in front: --data is --run.data
_TRAINER_HELP = (
    "--trainer.FIELD X for every field of transformers' TrainingArguments, such as --trainer.learning_rate 1e-4, "
    "--trainer.max_steps 1000, --trainer.per_device_train_batch_size 32, --trainer.bf16, --trainer.torch_compile, "
    "--trainer.gradient_checkpointing, --trainer.dataloader_num_workers 4"
)
_DESTINATION = "setting:"  # in front of a flag's name among the parsed arguments


def add_settings(parser: argparse.ArgumentParser, sections: Iterable[str], *, preset: str | None) -> None:
    """--preset, --config, and a flag for each field of these sections."""
    parser.usage = f"{parser.prog} [--preset NAME] [--config FILE] [--FIELD X] [--SECTION.FIELD X] ..."
    parser.add_argument("--preset", default=preset, help=f"settings to begin with: default or seed (default: {preset})")
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="YAML file of sections of fields; may be repeated"
    )
    for name in sections:
        if name == TRAINER:
            continue
        group = parser.add_argument_group(f"section {name!r}")
        comments = field_comments(SECTIONS[name])
        for field in fields(SECTIONS[name]):
            flags = [f"--{name}.{field.name}"]
            if name == _PLAIN:
                flags.insert(0, f"--{field.name.replace('_', '-')}")
            shown = "" if field.default in ("", None) else f" (default: {_text(field.default)})"
            group.add_argument(
                *flags,
                dest=f"{_DESTINATION}{name}.{field.name}",
                metavar="X",
                nargs="?",
                const="true",
                help=(comments.get(field.name, "") + shown).replace("%", "%%"),
            )
    if TRAINER in sections:
        parser.add_argument_group(f"section {TRAINER!r}", _TRAINER_HELP)


def read_settings(arguments: argparse.Namespace, flags: Mapping[str, str] | None = None) -> FitConfig:
    """The settings of preset, files, the command's flags and then `flags` section.field -> text; the later one wins.

    Raises:
        ValueError: an unknown flag, field or preset (with the nearest name), or an impossible value.
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
    """`--section.field value` and `--section.field=value` among what argparse did not know; no value means true.

    Raises:
        ValueError: anything else; with the nearest of the known names section.field.
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
            close = difflib.get_close_matches(word.lstrip("-").replace("-", "_"), flags_of, n=1)
            hint = f" (did you mean --{flags_of[close[0]]}?)" if close else ""
            raise ValueError(f"unknown argument {word!r}{hint}; --help lists them")
    return flags


def field_comments(section: type) -> Mapping[str, str]:
    """Field -> the comment behind it in the source of a dataclass."""
    found = re.findall(r"^    (\w+): [^\n#]*#\s*(.*)$", inspect.getsource(section), re.MULTILINE)
    return dict(found)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
