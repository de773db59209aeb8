"""Where clips come from: folders, manifests, Hugging Face datasets and tar shards, all as the same `AudioClip`."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path, PurePath

import torch

from audio2img_core.audio.clips import AudioClip, clean_captions, list_folder, manifest_clips, no_audio
from audio2img_core.batch.jobs import INDEX
from audio2img_core.checks import first_line
from audio2img_core.storage.files import AUDIO_SUFFIXES
from audio2img_core.storage.manifests import KINDS as MANIFEST_KINDS
from audio2img_core.storage.manifests import manifest_kind, parquet_call, require
from audio2img_core.storage.paths import base_name, below, is_url, joined, kind, read
from audio2img_core.storage.shards import find_shards, is_tar

from .clips import Source, is_saved
from .hub_datasets import PRESETS, open_dataset
from .shards import TarSource, open_shards, peeked

KINDS = (
    "a folder of sounds with same-named .txt files, or of tar shards; a .csv, .tsv, .jsonl or .parquet manifest; tar"
    " shards (train-{000..012}.tar); all these by path or URL (s3://, gs://, ...); a Hugging Face dataset by id or"
    " folder; a preset (fsd50k, fsd50k-labels, audiocaps, clotho)"
)
_CAPTION_COLUMNS = ("caption", "captions")


class Selection(Source):
    """Some clips of another source."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        super().__init__(source.name)
        self._source, self._indices = source, list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> AudioClip:
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
    columns = {"audio_column": audio_column, "caption_column": caption_column}
    hub = {"split": split, "config_name": config_name, "preset": preset}
    if text.startswith("hf:") or (text.lower() in PRESETS and not path.exists()):
        return _checked(open_dataset(text.removeprefix("hf:"), **hub, **columns))
    if is_tar(text):
        _refuse(hub | columns, f"{text} is a shard pattern")
        return peeked(TarSource(text, find_shards(text)))
    is_id = not (is_url(text) or manifest_kind(text) or path.exists())
    if is_id and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text):
        return _checked(open_dataset(text, **hub, **columns))
    found = kind(text)
    if found == "folder":
        return _open_folder(text, hub, columns)
    if manifest_kind(text) is not None:
        if found is None:
            raise FileNotFoundError(f"{text}: no such manifest")
        if manifest_kind(text) == "parquet" and _holds_sounds(text, audio_column or "audio"):
            return _checked(open_dataset(text, **hub, **columns))
        _refuse(hub, f"{text} is a manifest")
        texts = (caption_column,) if caption_column else _CAPTION_COLUMNS
        return _checked(Source(text, manifest_clips(text, audio_column=audio_column, caption_columns=texts)))
    if found is None and (is_url(text) or path.is_absolute() or len(path.parts) > 1):
        raise FileNotFoundError(f"{text}: no such file or folder; allowed: {KINDS}")
    raise ValueError(f"{text!r} is no kind of data that is known; allowed: {KINDS}")


def _open_folder(folder: str, hub: dict[str, str | None], columns: dict[str, str | None]) -> Source:
    if not is_url(folder) and _is_dataset(Path(folder)):
        return _checked(open_dataset(folder, **hub, **columns))
    split = hub["split"]
    if split is not None and kind(joined(folder, split)) == "folder":
        return open_source(joined(folder, split), **columns)
    found = list_folder(folder)
    names = {below(file, folder): file for file in found.files}
    for ending in MANIFEST_KINDS:
        if metadata := names.get(f"metadata{ending}"):
            return open_source(metadata, **hub, **columns)
    _refuse(hub | columns, f"{folder} is a folder of sounds")
    if not found.audio and not found.shards:
        raise no_audio(folder)
    if not found.audio:
        return open_shards(folder, found.shards, names.get(INDEX))
    return _checked(_folder(folder, found.audio, set(found.files)))


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


def _folder(folder: str, sounds: Sequence[str], files: Container[str]) -> Source:
    clips = []
    for sound in sounds:
        text, problem, captions = f"{sound[: -len(PurePath(sound).suffix)]}.txt", "", ()
        try:
            captions = clean_captions(read(text).decode("utf-8-sig").splitlines()) if text in files else ()
            problem = "" if text in files else f"no {base_name(text)} beside it"
        except (OSError, ValueError) as error:
            problem = f"{base_name(text)} cannot be read ({first_line(error)})"
        clips.append(AudioClip(below(sound, folder), sound, captions, problem=problem))
    return Source(folder, clips)


def _holds_sounds(name: str, column: str) -> bool:
    """Whether this column of a Parquet file holds the sound files themselves, not their paths."""
    pyarrow = require("pyarrow")
    schema = parquet_call(name, "read_schema")
    kind = schema.field(column).type if column in schema.names else pyarrow.string()
    return pyarrow.types.is_struct(kind) or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _is_dataset(path: Path) -> bool:
    """Whether a folder is a Hugging Face dataset: saved by `datasets`, or Parquet files and no sounds."""
    if is_saved(path):
        return True
    files = [Path(name).suffix.lower() for _, _, names in os.walk(path) for name in names]
    return ".parquet" in files and AUDIO_SUFFIXES.isdisjoint(files)
