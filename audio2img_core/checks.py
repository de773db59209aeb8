"""Checks that several modules share."""

from __future__ import annotations

import operator

from torch import Tensor


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
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
