"""The part of a sound to read, and how much of it may be read."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass

MAX_SECONDS = 4 * 3600.0  # read from one file unless the caller or the environment says otherwise
MAX_SECONDS_VARIABLE = "AUDIO2IMG_MAX_SECONDS"


@dataclass(frozen=True)
class Excerpt:
    """The part of a sound to read, in seconds; checked when it is made.

    Args:
        start: where the part begins.
        duration: its length at most; None = to the end of the sound.
        max_seconds: length above which reading is refused, for stereo at 48 kHz, and less where more channels or a
            higher rate take more memory; None = the environment's AUDIO2IMG_MAX_SECONDS, else 4 hours.

    Raises:
        ValueError: start is negative, duration or max_seconds is not above 0, or one of them is not a number.
    """

    start: float = 0.0
    duration: float | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if not (_is_finite(self.start) and self.start >= 0):
            raise ValueError(f"start must be a finite number of seconds >= 0, not {self.start!r}")
        if self.duration is not None and not (_is_finite(self.duration) and self.duration > 0):
            raise ValueError(f"duration must be None or a finite number of seconds > 0, not {self.duration!r}")
        if self.max_seconds is not None:
            _positive(self.max_seconds, "max_seconds")

    @property
    def limit(self) -> float:
        """`max_seconds`, else the environment's limit, else 4 hours.

        Raises:
            ValueError: the environment's limit is not a number of seconds above 0.
        """
        if self.max_seconds is not None:
            return float(self.max_seconds)
        return _positive(os.environ.get(MAX_SECONDS_VARIABLE) or MAX_SECONDS, MAX_SECONDS_VARIABLE)

    def part(self, inner: Excerpt, name: str) -> Excerpt:
        """Return the part `inner` of this part; `name` names the sound in errors.

        Raises:
            ValueError: `inner` starts at or past the end of this part.
        """
        if self.duration is None:
            return Excerpt(self.start + inner.start, inner.duration, inner.max_seconds)
        left = self.duration - inner.start
        if left <= 0:
            end = self.start + self.duration
            raise ValueError(f"start {inner.start:g} s is at or past the end of {name}, which is read up to {end:g} s")
        duration = left if inner.duration is None else min(inner.duration, left)
        return Excerpt(self.start + inner.start, duration, inner.max_seconds)


def _is_finite(value: object) -> bool:
    with contextlib.suppress(TypeError, OverflowError):
        return math.isfinite(value)  # pyright: ignore[reportArgumentType]
    return False


def _positive(value: object, name: str) -> float:
    with contextlib.suppress(TypeError, ValueError):
        if (seconds := float(value)) > 0:  # pyright: ignore[reportArgumentType]
            return seconds
    raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")


WHOLE = Excerpt()
