"""Manifests: rows of CSV, TSV, JSON lines and Parquet files, by path or URL."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from ..checks import first_line, one_line
from .paths import base_name, opened, read

KINDS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""Suffix -> kind of manifest."""

Rows = Iterable[tuple[int, Mapping[str, Any]]]


def manifest_kind(name: str) -> str | None:
    """The kind of manifest by its suffix; None = no manifest."""
    return KINDS.get(PurePath(base_name(name)).suffix.lower())


def read_manifest(name: str) -> tuple[Rows, list[str]]:
    """Rows with their numbers in the file, and the names of the columns.

    Raises:
        ValueError: it is not what its suffix says. OSError, ImportError: it cannot be read.
    """
    readers = {"csv": _csv_rows, "jsonl": _jsonl_rows, "parquet": _parquet_rows}
    return readers[KINDS[PurePath(base_name(name)).suffix.lower()]](name)


def span(start: Any, end: Any) -> tuple[float, float | None]:
    """Seconds of a clip's start and end as they stand in a manifest; empty and NaN mean the file's own.

    Raises:
        ValueError: no numbers, negative, or the end does not come after the start.
    """
    seconds = []
    for value in (start, end):
        try:
            number = math.nan if value is None or value == "" else float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{one_line(str(value)[:40])!r} is not a number of seconds") from None
        seconds.append(None if math.isnan(number) else number)
    begin = seconds[0] or 0.0
    if not 0 <= begin < math.inf or (seconds[1] is not None and seconds[1] <= begin):
        raise ValueError(f"start {begin} and end {seconds[1]} do not fit")
    return begin, None if seconds[1] == math.inf else seconds[1]


def span_name(audio: str, start: float, end: float | None) -> str:
    """The name of a part of a file; the file's own where it is all of it."""
    return audio if start == 0 and end is None else f"{audio}@{start}-{'' if end is None else end}"


def parquet_call(name: str, function: str) -> Any:
    """What a function of `pyarrow.parquet` says of a file.

    Raises:
        ValueError: no Parquet file. ImportError: pyarrow is missing.
    """
    parquet, errors = require("pyarrow.parquet"), require("pyarrow").ArrowException
    try:
        with opened(name) as file:
            return getattr(parquet, function)(file)
    except errors as error:
        raise ValueError(f"{name}: not a Parquet file ({first_line(error)})") from error


def require(module: str) -> Any:
    """Import a library that only some kinds of data need.

    Raises:
        ImportError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.split(".")[0]
        raise ImportError(f"this kind of data needs {library}: pip install 'audio2img[train]'") from error


def _csv_rows(name: str) -> tuple[Rows, list[str]]:
    try:
        text = io.StringIO(read(name).decode("utf-8-sig"), newline="")
        reader = csv.DictReader(text, delimiter="\t" if name.lower().endswith(".tsv") else ",")
        reader.fieldnames = columns = [column.strip().lower() for column in reader.fieldnames or ()]
        return [(reader.line_num, row) for row in reader], columns
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: not a CSV file in UTF-8 ({first_line(error)})") from error


def _jsonl_rows(name: str) -> tuple[Rows, list[str]]:
    rows = []
    for number, line in enumerate(read(name).split(b"\n"), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise ValueError(f"{name}: line {number} is not JSON ({first_line(error)})") from error
        if row is not None and not isinstance(row, dict):
            raise ValueError(f"{name}: line {number} must be an object with audio and caption")
        rows += [] if row is None else [(number, row)]
    return rows, list(dict.fromkeys(key for _, row in rows for key in row))


def _parquet_rows(name: str) -> tuple[Rows, list[str]]:
    table = parquet_call(name, "read_table")
    return enumerate(table.to_pylist(), start=1), table.column_names
