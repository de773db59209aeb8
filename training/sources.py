"""Where clips come from: folders, manifests, Hugging Face datasets and tar shards, all as the same `Clip`."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from audio2img_core.checks import first_line
from audio2img_core.files import AUDIO_SUFFIXES, find_sounds

from .clips import Clip, Source, clean_captions, is_saved, require, span
from .datasets_presets import PRESETS, open_dataset
from .shards import TarSource, find_shards, peeked

KINDS = (
    "a folder of sounds with same-named .txt files; a .csv, .tsv, .jsonl or .parquet manifest; a Hugging Face"
    " dataset by id or folder; a preset (fsd50k, fsd50k-labels, audiocaps, clotho); tar shards (train-{000..012}.tar)"
)
_TARS = (".tar", ".tar.gz", ".tgz")
_MANIFESTS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_AUDIO_COLUMNS = ("audio", "file_name")  # the second is that of the metadata files of Hugging Face's audio folders
_CAPTION_COLUMNS = ("caption", "captions")


class Selection(Source):
    """Some clips of another source."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        super().__init__(source.name)
        self._source, self._indices = source, list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Clip:
        return self._source[self._indices[index]]

    def captions(self) -> Iterator[tuple[str, ...]]:
        every = list(self._source.captions())
        return (every[index] for index in self._indices)


def open_source(
    spec: str | os.PathLike[str],
    *,
    split: str | None = None,
    config_name: str | None = None,
    audio_column: str | None = None,
    caption_column: str | None = None,
    preset: str | None = None,
) -> Source:
    """Open what `spec` names; sounds are not decoded yet.

    Args:
        spec: see `KINDS`. `hf:` in front makes anything a Hugging Face id.
        split, config_name: of a Hugging Face dataset; None = "train" (or the only split) and the default. The split
            of a folder of sounds is a folder in it.
        audio_column, caption_column: of a dataset or manifest; None = the usual names.
        preset: read a Hugging Face dataset (a local copy, say) by this preset's rules.

    Returns:
        a Source; `streaming` ones (tar shards) only iterate, the others have a length and an index.

    Raises:
        FileNotFoundError: nothing has that name, or the pattern matches no shard.
        ValueError: no clip, no needed column, only empty captions, or an unknown kind. ImportError: a library that
            only training needs is missing.
    """
    text = os.fspath(spec)
    path = Path(text)
    kind = _MANIFESTS.get(path.suffix.lower())
    columns = {"audio_column": audio_column, "caption_column": caption_column}
    hub = {"split": split, "config_name": config_name, "preset": preset}
    if text.startswith("hf:") or (text.lower() in PRESETS and not path.exists()):
        return _checked(open_dataset(text.removeprefix("hf:"), **hub, **columns))
    if path.is_dir():
        if _is_dataset(path):
            return _checked(open_dataset(text, **hub, **columns))
        if split is not None and (path / split).is_dir():
            return open_source(path / split, **columns)
        metadata = [file for ending in _MANIFESTS if (file := path / f"metadata{ending}").is_file()]
        if metadata:
            return open_source(metadata[0], **hub, **columns)
        _refuse(hub | columns, f"{text} is a folder of sounds")
        return _checked(_folder(path))
    if text.lower().endswith(_TARS):
        _refuse(hub | columns, f"{text} is a shard pattern")
        return peeked(TarSource(text, find_shards(text)))
    if kind is not None:
        if not path.is_file():
            raise FileNotFoundError(f"{text}: no such manifest")
        if kind == "parquet" and _holds_sounds(path, audio_column or "audio"):
            return _checked(open_dataset(text, **hub, **columns))
        _refuse(hub, f"{text} is a manifest")
        return _checked(_manifest(path, kind, **columns))
    if not path.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text):
        return _checked(open_dataset(text, **hub, **columns))
    if not path.exists() and (path.is_absolute() or len(path.parts) > 1):
        raise FileNotFoundError(f"{text}: no such file or folder; allowed: {KINDS}")
    raise ValueError(f"{text!r} is no kind of data that is known; allowed: {KINDS}")


def distinct_captions(source: Source) -> list[str]:
    """Every caption of a source once, in the order of first appearance."""
    return list(dict.fromkeys(itertools.chain.from_iterable(source.captions())))


def held_in_memory(source: Source) -> Source:
    """The source itself where it has an index; a stream's clips, as the files they are, read into memory."""
    return Source(source.name, list(source)) if source.streaming else source


def hold_out(source: Source, share: float, *, seed: int = 0) -> tuple[Source, Source]:
    """Split a source with an index at random: (the rest, about `share` of the clips but at least one).

    Parts of one sound count as clips of their own: where there are any, name a split instead.

    Raises:
        ValueError: the source is streamed, has fewer than two clips, or `share` does not lie between 0 and 1.
    """
    if source.streaming or len(source) < 2 or not 0 < share < 1:
        raise ValueError(f"cannot hold {share!r} of {source.name} out: it needs an index, two clips, 0 < share < 1")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(max(round(share * len(source)), 1), len(source) - 1)
    return Selection(source, sorted(order[count:])), Selection(source, sorted(order[:count]))


def _refuse(hub: dict[str, str | None], what: str) -> None:
    given = [name for name, value in hub.items() if value is not None]
    if given:
        raise ValueError(f"{what}, which takes no {given[0]}")


def _checked(source: Source) -> Source:
    """`source`, or ValueError if it has no clip or no caption."""
    if len(source) == 0:
        raise ValueError(f"{source.name}: no clip found")
    if not any(source.captions()):
        raise ValueError(f"{source.name}: the captions of all {len(source)} clips are empty or missing")
    return source


def _folder(path: Path) -> Source:
    clips = []
    for sound in find_sounds([path]):
        text, problem, captions = sound.with_suffix(".txt"), "", ()
        try:
            captions = clean_captions(text.read_text(encoding="utf-8-sig").splitlines())
        except FileNotFoundError:
            problem = f"no {text.name} beside it"
        except (OSError, ValueError) as error:
            problem = f"{text.name} cannot be read ({first_line(error)})"
        clips.append(Clip(sound.relative_to(path).as_posix(), str(sound), captions, problem=problem))
    return Source(str(path), clips)


def _manifest(path: Path, kind: str, *, audio_column: str | None, caption_column: str | None) -> Source:
    rows, columns = {"csv": _csv_rows, "jsonl": _jsonl_rows, "parquet": _parquet_rows}[kind](path)
    sounds = [name for name in ((audio_column,) if audio_column else _AUDIO_COLUMNS) if name in columns]
    texts = [name for name in ((caption_column,) if caption_column else _CAPTION_COLUMNS) if name in columns]
    if not sounds or not texts:
        lacks = [] if sounds else [audio_column or "audio"]
        lacks += [] if texts else [caption_column or "caption"]
        raise ValueError(f"{path}: no column {' and no column '.join(lacks)}; found: {', '.join(columns) or 'none'}")
    clips: dict[tuple[str, float, float | None], list[str]] = {}
    bad = []
    for number, row in rows:
        audio = row.get(sounds[0])
        try:
            if not isinstance(audio, str) or not audio.strip():
                raise ValueError("no audio")
            start, end = span(row.get("start"), row.get("end"))
        except ValueError as error:
            bad.append(Clip(f"{path.name}:{number}", "", (), problem=str(error)))
            continue
        captions = [caption for name in texts for caption in clean_captions(row.get(name))]
        clips.setdefault((audio.strip(), start, end), []).extend(captions)
    good = [
        Clip(
            audio if start == 0 and end is None else f"{audio}@{start}-{'' if end is None else end}",
            str(path.parent / audio),
            clean_captions(captions),
            start,
            end,
        )
        for (audio, start, end), captions in clips.items()
    ]
    return Source(str(path), good + bad)


def _csv_rows(path: Path) -> tuple[Iterable[tuple[int, dict]], list[str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            reader.fieldnames = columns = [name.strip().lower() for name in reader.fieldnames or ()]
            return [(reader.line_num, row) for row in reader], columns
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({first_line(error)})") from error


def _jsonl_rows(path: Path) -> tuple[Iterable[tuple[int, dict]], list[str]]:
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as error:
                raise ValueError(f"{path}: line {number} is not JSON ({first_line(error)})") from error
            if row is not None and not isinstance(row, dict):
                raise ValueError(f"{path}: line {number} must be an object with audio and caption")
            rows += [] if row is None else [(number, row)]
    return rows, list(dict.fromkeys(key for _, row in rows for key in row))


def _parquet_rows(path: Path) -> tuple[Iterable[tuple[int, dict]], list[str]]:
    table = _parquet(path, "read_table")
    return enumerate(table.to_pylist(), start=1), table.column_names


def _holds_sounds(path: Path, column: str) -> bool:
    """Whether this column of a Parquet file holds the sound files themselves, not their paths."""
    pyarrow = require("pyarrow")
    schema = _parquet(path, "read_schema")
    kind = schema.field(column).type if column in schema.names else pyarrow.string()
    return pyarrow.types.is_struct(kind) or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _parquet(path: Path, function: str) -> object:
    parquet, errors = require("pyarrow.parquet"), require("pyarrow").ArrowException
    try:
        return getattr(parquet, function)(str(path))
    except errors as error:
        raise ValueError(f"{path}: not a Parquet file ({first_line(error)})") from error


def _is_dataset(path: Path) -> bool:
    """Whether a folder is a Hugging Face dataset: saved by `datasets`, or Parquet files and no sounds."""
    if is_saved(path):
        return True
    files = [Path(name).suffix.lower() for _, _, names in os.walk(path) for name in names]
    return ".parquet" in files and AUDIO_SUFFIXES.isdisjoint(files)
