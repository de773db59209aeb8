"""Files in and out: finding sounds, writing whole files or none."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

AUDIO_SUFFIXES = frozenset(
    (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff")
    + (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
)


def find_sounds(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files as they are named, folders replaced by the sounds and videos below them in the order of their names.

    Raises:
        FileNotFoundError: one does not exist. ValueError: a folder holds no sound.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise FileNotFoundError(f"{path}: no such file")
            found.append(path)
            continue
        below = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
        if not below:
            raise ValueError(f"{path}: no sound in this folder; looked for {' '.join(sorted(AUDIO_SUFFIXES))}")
        found += below
    return list(dict.fromkeys(found))


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when all went well and vanishes otherwise.

    Raises:
        OSError: the folder cannot be made or written; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".partial{path.suffix}")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `path` to write in; it becomes `path` when all went well and vanishes otherwise.

    Raises:
        FileExistsError: `path` exists and is not an empty folder. OSError: it cannot be written.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path}: exists already and is not an empty folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Make the folder and try it with a file, so that a long work does not fail at its end.

    Raises:
        ValueError: it cannot be written; the message says why.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written as an output folder ({error.strerror})") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
