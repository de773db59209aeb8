"""What all kinds of sources share: the clip, the source itself, and how captions and times are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from audio2img_core.checks import one_line


@dataclass(frozen=True)
class Clip:
    """One sound, or a part of one, and what is said about it."""

    key: str  # names the clip in messages and in skipped.csv; unique in its source
    audio: str | bytes  # a path or an address, or the file's content
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


def is_saved(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` of `datasets` writes."""
    files = (("dataset_dict.json",), ("state.json", "dataset_info.json"))
    return any(all((path / name).is_file() for name in names) for names in files)
