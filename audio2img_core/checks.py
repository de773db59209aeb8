"""Checks that several modules share."""

from __future__ import annotations

import operator


def positive_int(value: int, what: str) -> int:
    """`value` as an int of at least 1.

    Raises:
        ValueError: it is none; `what` names it.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{what} must be an integer >= 1, not {value!r}")
    return number


def describe(value: object) -> str:
    """dtype and shape of a tensor, the type's name of anything else."""
    # Not asked of torch: the command line's first answer must not wait for its import.
    dtype, shape = (getattr(value, name, None) for name in ("dtype", "shape"))
    return type(value).__name__ if dtype is None or shape is None else f"{dtype} {list(shape)}"


def one_line(text: str) -> str:
    """`text` with every run of white space as one blank."""
    return " ".join(text.split())


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says anything, else the error's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
