"""What all kinds of sources share: the clip, the source itself, and how captions and times are read."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from audio2img_core.checks import one_line


@dataclass(frozen=True)
class Clip:
    """One sound, or a part of one, and what is said about it."""

    key: str  # names the clip in messages and in skipped.csv; unique in its source
    audio: str | bytes  # a path, or the file's content
    captions: tuple[str, ...]
    start: float = 0.0  # seconds from the beginning of the sound
    end: float | None = None  # seconds; None = to the end
    problem: str = ""  # why this clip cannot be used, where that is known before decoding


class Source:
    """Clips in a fixed order, by index."""

    streaming = False

    def __init__(self, name: str, clips: Sequence[Clip] = ()) -> None:
        self.name = name
        self._clips = clips

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]

    def __iter__(self) -> Iterator[Clip]:
        return (self[index] for index in range(len(self)))

    def captions(self) -> Iterator[tuple[str, ...]]:
        """The captions of each clip in order, without reading any sound."""
        return (clip.captions for clip in self._clips)


def clean_captions(values: object) -> tuple[str, ...]:
    """Texts with single blanks, without empty and repeated ones; of a text, a JSON list of texts, or a list."""
    if isinstance(values, str) and values.lstrip().startswith("["):
        try:
            values = json.loads(values)
        except ValueError:
            values = [values]
    values = [values] if isinstance(values, str) else values if isinstance(values, Iterable) else ()
    texts = (one_line(value) for value in values if isinstance(value, str))
    return tuple(dict.fromkeys(text for text in texts if text))


def span(start: object, end: object) -> tuple[float, float | None]:
    """Seconds of a clip's start and end as they stand in a table; empty and NaN mean the sound's own.

    Raises:
        ValueError: no numbers, negative, or the end does not come after the start.
    """
    seconds = []
    for value in (start, end):
        try:
            number = math.nan if value is None or value == "" else float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{one_line(str(value))!r} is not a number of seconds") from None
        seconds.append(None if math.isnan(number) else number)
    begin = seconds[0] or 0.0
    if not 0 <= begin < math.inf or (seconds[1] is not None and seconds[1] <= begin):
        raise ValueError(f"start {begin} and end {seconds[1]} do not fit")
    return begin, None if seconds[1] == math.inf else seconds[1]


def require(module: str) -> object:
    """Import a library that only training needs.

    Raises:
        ImportError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        raise ImportError(f"this kind of data needs {library}: pip install 'audio2img[train]'") from error


def is_saved(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` of `datasets` writes."""
    files = (("dataset_dict.json",), ("state.json", "dataset_info.json"))
    return any(all((path / name).is_file() for name in names) for names in files)
