"""Fields of dataclasses as settings: their types, their help and their names."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

_MOST_NAMES = 40  # that an error lists
_SAID = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}


def field_types(section: type) -> dict[str, tuple[Any, ...]]:
    """Return field -> the types that it allows: (float, NoneType) for `float | None`."""
    kinds = get_type_hints(section)
    return {name: get_args(kind) or (kind,) for name, kind in kinds.items()}


def field_help(section: type) -> dict[str, str]:
    """Return field -> its text under `Attributes:` in the docstring of a dataclass."""
    _, _, text = inspect.cleandoc(section.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return {name: " ".join(lines.split()) for name, lines in entries}


def convert(name: str, value: Any, allowed: tuple[Any, ...], *, strict: bool = True) -> Any:
    """Return a value from YAML in one of the types of its field.

    YAML reads 1e-4 as text, 1 as a whole number and no as false.

    Args:
        name: `section.field`, for the error.
        value: Value from YAML.
        allowed: Types of the field, as from `field_types`.
        strict: Refuse values of other types; otherwise return them as they are.

    Raises:
        ValueError: The value has none of these types.
    """
    if any(value is not None and type(value) is kind for kind in allowed) or (value is None and NoneType in allowed):
        return value
    if value is False and str in allowed and bool not in allowed:
        return "no"
    if float in allowed and not isinstance(value, bool) and isinstance(value, (int, str)) and str not in allowed:
        with contextlib.suppress(ValueError):
            return float(value)
    if str in allowed and float not in allowed and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if strict or (isinstance(value, str) and set(allowed) <= {float, NoneType}):
        raise ValueError(f"{name} must be {' or '.join(_SAID[kind] for kind in allowed)}, not {value!r}")
    return value


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse unknown names.

    Raises:
        ValueError: One is unknown; the message has the nearest one.
    """
    known = list(known)
    for name in given:
        if name not in known:
            there = ", ".join(known) if len(known) <= _MOST_NAMES else f"{len(known)}, see --help"
            close = nearest(str(name), known)
            hint = f" (did you mean {close!r}?)" if close else ""
            raise ValueError(f"unknown {what} {name!r}{hint}; there are {there}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like `name`; None where none is."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections of fields as `section.field` -> value."""
    result: dict[str, Any] = {}
    for name, value in settings.items():
        result |= (
            {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}
        )
    return result
