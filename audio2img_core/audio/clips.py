"""Audio clips and their listing: files, folders, manifests and tar shards, by path or URL."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from ..checks import one_line
from ..storage.files import AUDIO_SUFFIXES
from ..storage.manifests import manifest_kind, read_manifest, span, span_name
from ..storage.paths import absolute, base_name, beside, files_below, is_url, kind, opened
from ..storage.shards import Sample, find_shards, is_tar
from .excerpt import WHOLE, Excerpt

if TYPE_CHECKING:
    from torch import Tensor

AUDIO_COLUMNS = ("audio", "file_name")
"""Names of a manifest's column of files; the second is that of the metadata of Hugging Face's audio folders."""


@dataclass(frozen=True)
class AudioClip:
    """An audio file or a part of one, not decoded yet, and its captions where it has any."""

    key: str  # names the clip in messages and results; unique within one job or source
    audio: str | bytes  # a path or URL, or the file's content
    captions: tuple[str, ...] = ()
    start: float = 0.0  # seconds from the beginning of the file
    end: float | None = None  # seconds; None = to the end
    problem: str = ""  # why the clip is invalid, where that is known before decoding

    @property
    def excerpt(self) -> Excerpt:
        """The part of the file."""
        return Excerpt(self.start, None if self.end is None else self.end - self.start)

    def blocks(self, part: Excerpt = WHOLE) -> Iterator[Tensor]:
        """Decode a part of the clip, in blocks as `stream_mono` yields them.

        Raises:
            ValueError, OSError, ImportError: as `stream_mono` and `opened`.
        """
        from .io import stream_mono  # needs torch, which listing does without

        if self.problem:
            raise ValueError(f"{self.key}: {self.problem}")
        with self.opened() as file:
            yield from stream_mono(file, self.excerpt.part(part, self.key))

    @contextlib.contextmanager
    def opened(self) -> Iterator[str | BinaryIO]:
        """Open the file as `load_audio` takes it; messages then name the clip."""
        if isinstance(self.audio, bytes):
            file = _NamedBytes(self.audio)
            file.name = self.key
            yield file
        elif is_url(self.audio):
            with opened(self.audio) as file:
                yield file
        else:
            yield self.audio


class Listing(NamedTuple):
    """What a folder holds, by path or URL, in the order of the names."""

    audio: list[str]
    shards: list[str]
    files: list[str]  # all of them


def list_folder(folder: str) -> Listing:
    """List a folder and those below it.

    Raises:
        OSError, ValueError, ImportError: a URL that cannot be reached.
    """
    files = files_below(folder)
    audio = [file for file in files if PurePath(file).suffix.lower() in AUDIO_SUFFIXES]
    return Listing(audio, [file for file in files if is_tar(file)], files)


def no_audio(folder: str) -> ValueError:
    """The error of a folder without audio."""
    return ValueError(f"{folder}: no sound in this folder; looked for {' '.join(sorted(AUDIO_SUFFIXES))}")


def find_audio(paths: Iterable[str]) -> list[Path]:
    """List local files as they are named, and for a folder the audio and video files below it.

    Raises:
        FileNotFoundError: a path does not exist. ValueError: a folder holds no audio.
    """
    found: list[Path] = []
    for path in paths:
        place = kind(str(Path(path)))
        if place is None:
            raise FileNotFoundError(f"{path}: no such file")
        files = [Path(file) for file in (list_folder(path).audio if place == "folder" else [path])]
        files = [file for file in files if file.exists()]  # a link may lead nowhere
        if not files:
            raise no_audio(path)
        found += files
    return list(dict.fromkeys(found))


def list_clips(inputs: Iterable[str]) -> tuple[list[AudioClip], list[str]]:
    """List the clips of the inputs, and the tar shards, whose clips are known once they are read.

    Args:
        inputs: paths or URLs of audio and video files, of folders of them or of tar shards, of manifests (.csv, .tsv,
            .jsonl or .parquet with a column audio or file_name and optionally start and end), and patterns of tar
            shards.

    Raises:
        FileNotFoundError: an input does not exist. ValueError: a folder without audio, or an invalid manifest.
        OSError, ImportError: a URL that cannot be reached.
    """
    clips: list[AudioClip] = []
    shards: list[str] = []
    for name in inputs:
        if is_tar(name):
            shards += find_shards(name)
            continue
        found = kind(name)
        if found is None:
            raise FileNotFoundError(f"{name}: no such file")
        if found == "folder":
            below = list_folder(name)
            if not below.audio and not below.shards:
                raise no_audio(name)
            shards += below.shards
            clips += map(_file_clip, below.audio)
        elif manifest_kind(name):
            clips += (clip if clip.problem else _by_path(clip) for clip in manifest_clips(name))
        else:
            clips.append(_file_clip(name))
    return list({clip.key: clip for clip in clips}.values()), list(dict.fromkeys(map(absolute, shards)))


def manifest_clips(
    name: str, *, audio_column: str | None = None, caption_columns: Sequence[str] = ()
) -> list[AudioClip]:
    """Read the clips of a manifest; rows of the same file, start and end are one clip with the captions of all.

    Args:
        name: path or URL.
        audio_column: None = the first of `AUDIO_COLUMNS` that is there.
        caption_columns: at least one of them must be there; none = captions are not read.

    Returns:
        clips named as in the manifest, with paths relative to it resolved; invalid rows last, named by their numbers.

    Raises:
        ValueError: not a manifest, or a column is missing. OSError, ImportError: it cannot be read.
    """
    rows, columns = read_manifest(name)
    files = [column for column in ([audio_column] if audio_column else AUDIO_COLUMNS) if column in columns]
    texts = [column for column in caption_columns if column in columns]
    lacking = [] if files else [audio_column or (AUDIO_COLUMNS[0] if caption_columns else " or ".join(AUDIO_COLUMNS))]
    lacking += [] if texts or not caption_columns else [caption_columns[0]]
    if lacking:
        raise ValueError(f"{name}: no column {' and no column '.join(lacking)}; found: {', '.join(columns) or 'none'}")
    captions: dict[tuple[str, float, float | None], list[str]] = {}
    invalid = []
    for number, row in rows:
        audio = row.get(files[0])
        try:
            if not isinstance(audio, str) or not audio.strip():
                raise ValueError("no audio")
            start, end = span(row.get("start"), row.get("end"))
        except ValueError as error:
            invalid.append(AudioClip(f"{base_name(name)}:{number}", b"", problem=str(error)))
            continue
        said = (caption for column in texts for caption in clean_captions(row.get(column)))
        captions.setdefault((audio.strip(), start, end), []).extend(said)
    clips = [
        AudioClip(span_name(audio, start, end), beside(name, audio), clean_captions(said), start, end)
        for (audio, start, end), said in captions.items()
    ]
    return clips + invalid


def shard_clip(sample: Sample, shard: str) -> AudioClip:
    """The clip of a tar shard's sample, without its captions; `shard` is what messages call the shard."""
    return AudioClip(f"{_key(shard)}/{sample.name}", sample.audio[0] if sample.audio else b"", problem=sample.problem)


def clean_captions(values: object) -> tuple[str, ...]:
    """Captions with single blanks, none empty or repeated, from a text, a JSON list of texts, or a list."""
    if isinstance(values, str) and values.lstrip().startswith("["):
        try:
            values = json.loads(values)
        except ValueError:
            values = [values]
    values = [values] if isinstance(values, str) else values if isinstance(values, Iterable) else ()
    texts = (one_line(value) for value in values if isinstance(value, str))
    return tuple(dict.fromkeys(text for text in texts if text))


def _key(name: str) -> str:
    return name if is_url(name) else PurePath(name).as_posix()


def _file_clip(name: str) -> AudioClip:
    key = _key(name)
    if not key.isprintable() or key.encode("utf-8", "replace") != key.encode("utf-8", "surrogateescape"):
        return AudioClip(ascii(key), b"", problem="its name is not UTF-8 that can be printed")
    return AudioClip(key, absolute(name))


def _by_path(clip: AudioClip) -> AudioClip:
    """The clip of a manifest under the name that its file has by itself."""
    assert isinstance(clip.audio, str)
    return replace(clip, key=span_name(_key(clip.audio), clip.start, clip.end), audio=absolute(clip.audio))


class _NamedBytes(io.BytesIO):
    name = ""
