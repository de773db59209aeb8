"""Checks that several modules share."""

from __future__ import annotations

import numbers
import operator
from typing import Any

MIN_RATE, MAX_RATE = 1_000, 1_536_000  # Hz; what a header says beyond them is damage, and costs gigabytes


class SettingError(ValueError):
    """A setting whose value is not allowed: a Python caller reads its name, the command line's user its flag."""

    def __init__(self, name: str, problem: str):
        super().__init__(f"{name} {problem}")
        self.name, self.problem = name, problem


def check_setting(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> None:
    """Refuse a number outside its range.

    Args:
        name: Name of the setting.
        value: Its value.
        least: Smallest allowed value.
        above: Value that it must exceed; instead of `least`.
        most: Largest allowed value; None = any finite one.
        whole: Allow integers only.

    Raises:
        SettingError: Not a finite number in the range.
    """
    low = above if least is None else least
    assert low is not None
    if (
        _is_number(value, numbers.Integral if whole else numbers.Real)
        and (low < value if least is None else low <= value)
        and (value <= most if most is not None else value < float("inf"))
    ):
        return
    if most is None:
        allowed = f"{'above' if least is None else 'at least'} {low:g}"
    else:
        allowed = f"above {low:g} and at most {most}" if least is None else f"between {low:g} and {most}"
    raise SettingError(name, f"must be {allowed}, not {value!r}")


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Check that a setting has one of its allowed values.

    Raises:
        SettingError: `value` is not allowed.
    """
    if value not in allowed:
        raise SettingError(name, f"must be one of {', '.join(allowed)}, not {value!r}")


def sample_rate_of(value: int) -> int:
    """`value` as a sample rate in Hz.

    Raises:
        ValueError: no integer between 1,000 and 1,536,000.
    """
    rate = positive_int(value, "sample_rate")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"sample_rate must be between {MIN_RATE} and {MAX_RATE} Hz, not {rate}")
    return rate


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


def describe(value: Any) -> str:
    """dtype and shape of a tensor, the type's name of anything else."""
    # Not asked of torch: the command line's first answer must not wait for its import.
    return f"{value.dtype} {list(value.shape)}" if type(value).__name__ == "Tensor" else type(value).__name__


def one_line(text: str) -> str:
    """`text` with every run of white space as one blank."""
    return " ".join(text.split())


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says anything, else the error's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def message(error: BaseException) -> str:
    """An error's message as one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return one_line(str(error)) or type(error).__name__
