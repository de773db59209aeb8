"""Hugging Face datasets as sources: by id or folder, with presets for the usual sets of captioned sounds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio2img_core.audio.clips import AudioClip, clean_captions
from audio2img_core.checks import first_line
from audio2img_core.storage.manifests import require, span

from .clips import Source, is_saved

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Preset:
    """How a known dataset is read; copies of it under another owner or on disk have the same columns."""

    dataset: str  # id on the hub
    captions: str | None = None  # the column with captions; None = found by its name
    clean: Callable[[object], tuple[str, ...]] = clean_captions
    license: str = ""  # of the data, for the model card


def seed_caption(labels: object) -> tuple[str, ...]:
    """One caption of the labels of an FSD50K clip, as kardSIM/audio2img (train_me.ipynb) made it.

    The labels are one text, joined by commas (or a list of texts): "Keyboard_(musical),Music" becomes "Keyboard
    musical Music". Underscores and commas turn into blanks, parentheses vanish.
    """
    text = ",".join(labels) if isinstance(labels, (list, tuple)) else labels
    return clean_captions([re.sub("[()]", "", re.sub("[_,]", " ", text))] if isinstance(text, str) else [])


def seed_labels(labels: object) -> tuple[str, ...]:
    """The seed's caption first, then each label by itself, cleaned in the same way."""
    parts = labels.split(",") if isinstance(labels, str) else labels if isinstance(labels, (list, tuple)) else []
    return clean_captions([*seed_caption(labels), *(text for part in parts for text in seed_caption(part))])


# Columns with captions, tried in turn where no preset and no argument names one.
_FOUND = (
    ("caption_1", "caption_2", "caption_3", "caption_4", "caption_5"),
    ("captions",),
    ("caption",),
    ("raw_text",),
    ("text",),
)

PRESETS = {
    "fsd50k": Preset("nateraw/fsd50k", "labels", seed_caption, "CC BY 4.0, and each clip has its own"),
    "fsd50k-labels": Preset("nateraw/fsd50k", "labels", seed_labels, "CC BY 4.0, and each clip has its own"),
    "audiocaps": Preset("CLAPv2/audiocaps", license="MIT for the captions"),
    "clotho": Preset("CLAPv2/Clotho", license="Tampere University's, non-commercial, for the captions"),
}


class DatasetSource(Source):
    """Rows of a `datasets.Dataset`, which stays memory-mapped; sounds stay undecoded."""

    def __init__(
        self,
        name: str,
        dataset: Dataset,
        audio: str,
        captions: tuple[str, ...],
        *,
        clean: Callable[[object], tuple[str, ...]] = clean_captions,
        spans: bool = False,
    ) -> None:
        super().__init__(name)
        self._dataset, self._audio, self._columns, self._clean, self._spans = dataset, audio, captions, clean, spans
        # Class labels are stored as numbers.
        self._names = {c: names for c in captions if (names := getattr(dataset.features[c], "names", None))}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> AudioClip:
        row = self._dataset[index]
        cell, key, problem = row[self._audio], f"row {index}", ""
        start, end = 0.0, None
        if isinstance(cell, dict):
            path = cell.get("path")
            key = f"{key} {Path(path).name}" if path else key
            cell = cell.get("bytes") or path
        if not isinstance(cell, (str, bytes)) or not cell:
            cell, problem = b"", "no audio"
        if self._spans:
            try:
                start, end = span(row.get("start"), row.get("end"))
            except ValueError as error:
                problem = problem or str(error)
        return AudioClip(key, cell, self._captions(row), start, end, problem)

    def captions(self) -> Iterator[tuple[str, ...]]:
        return map(self._captions, self._dataset.select_columns(list(self._columns)))

    def _captions(self, row: Any) -> tuple[str, ...]:
        values = []
        for column in self._columns:
            value = row[column]
            values += self._clean(self._names[column][value] if isinstance(value, int) else value)
        return clean_captions(values)


def open_dataset(
    spec: str,
    *,
    split: str | None = None,
    config_name: str | None = None,
    audio_column: str | None = None,
    caption_column: str | None = None,
    preset: str | None = None,
) -> DatasetSource:
    """A dataset by preset, hub id, folder, or Parquet file with the sounds in it (then `start` and `end` count).

    Raises:
        ImportError: `datasets` is not installed. FileNotFoundError: nothing has that name.
        ValueError: an unknown preset, split or column, or it cannot be opened.
    """
    datasets = require("datasets")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; allowed: {', '.join(PRESETS)}")
    place = PRESETS[spec.lower()].dataset if spec.lower() in PRESETS and not Path(spec).exists() else spec
    known = PRESETS.get(preset or spec.lower()) or _preset_of(place)
    parquet = Path(place).suffix.lower() == ".parquet"
    try:
        if parquet:
            dataset = datasets.load_dataset("parquet", data_files=place, split="train")
        elif is_saved(Path(place)):
            dataset = datasets.load_from_disk(place)
        else:
            dataset = datasets.load_dataset(place, config_name, split=split or "train")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{place}: no such Hugging Face dataset ({first_line(error)})") from error
    except Exception as error:  # those of a dozen libraries, of the network too
        cause = error
        while cause.__cause__ is not None:  # theirs say that there was an error, and their causes which
            cause = cause.__cause__
        raise ValueError(f"{place}: cannot be opened as a Hugging Face dataset ({first_line(cause)})") from error
    dataset = _one_split(dataset, place, split)
    captions, clean = _caption_columns(dataset, place, caption_column, known)
    audio = _audio_column(dataset, place, audio_column)
    if isinstance(dataset.features[audio], datasets.Audio):
        dataset = dataset.cast_column(audio, datasets.Audio(decode=False))
    spans = [name for name in ("start", "end") if parquet and name in dataset.column_names]
    dataset = dataset.select_columns(list(dict.fromkeys([audio, *captions, *spans])))
    return DatasetSource(place, dataset, audio, captions, clean=clean, spans=parquet)


def _preset_of(place: str) -> Preset | None:
    """The preset of a dataset of the same name, whoever owns the copy."""
    name = Path(place).name.lower()
    return next((p for p in PRESETS.values() if Path(p.dataset).name.lower() == name), None)


def _one_split(dataset: Any, place: str, split: str | None) -> Dataset:
    """One `Dataset` of what may be a `DatasetDict`."""
    if not isinstance(dataset, dict):
        if split is not None and dataset.split is not None and str(dataset.split) != split:
            raise ValueError(f"{place}: no split {split!r}; found: {dataset.split}")
        return dataset
    name = split or ("train" if "train" in dataset or len(dataset) != 1 else next(iter(dataset)))
    if name not in dataset:
        raise ValueError(f"{place}: no split {name!r}; found: {', '.join(dataset)}")
    return dataset[name]


def _audio_column(dataset: Dataset, place: str, name: str | None) -> str:
    if name is None:
        audio = [column for column, feature in dataset.features.items() if type(feature).__name__ == "Audio"]
        name = audio[0] if audio else "audio"
    if name not in dataset.column_names:
        raise ValueError(f"{place}: no column {name}; found: {', '.join(dataset.column_names)}")
    return name


def _caption_columns(
    dataset: Dataset, place: str, name: str | None, known: Preset | None
) -> tuple[tuple[str, ...], Callable[[object], tuple[str, ...]]]:
    """The columns with captions, and what makes captions of their cells."""
    columns = dataset.column_names
    if name is not None:
        if name not in columns:
            raise ValueError(f"{place}: no column {name}; found: {', '.join(columns)}")
        return (name,), known.clean if known is not None and name == known.captions else clean_captions
    if known is not None and known.captions in columns:
        return (known.captions,), known.clean
    for group in _FOUND:
        present = tuple(column for column in group if column in columns)
        if present:
            return present, clean_captions
    raise ValueError(f"{place}: no column with captions (caption, captions, text, ...); found: {', '.join(columns)}")
