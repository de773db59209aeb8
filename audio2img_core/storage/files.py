"""Local files: walking folders, and writing files that are complete or not there."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from ..checks import first_line

AUDIO_SUFFIXES = frozenset(
    (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff")
    + (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
)


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
        with _writing(path):
            yield partial
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` to write in; it becomes `path` when all went well and vanishes otherwise.

    With `replace` a folder that is there gives way to the new one.

    Raises:
        FileExistsError: `path` exists and is not an empty folder. OSError: it cannot be written.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and (replace or not any(path.iterdir()))):
        raise FileExistsError(f"{path}: exists already and is not an empty folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        with _writing(path):
            yield partial
        partial.chmod(0o777 & ~_umask())
        if replace and path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".old") as old:
                path.rename(Path(old) / path.name)
                partial.rename(path)
        else:
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors of writing, of a full disk most likely, as an OSError that names the file that was to be written."""
    try:
        yield
    except OSError as error:
        # Some libraries name no file, others the temporary one.
        if error.errno is None or (error.filename is not None and ".partial" not in str(error.filename)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({first_line(error)})") from error


def remove_partials(folder: Path) -> None:
    """Remove from a folder what `whole_file` and `whole_folder` were writing when their process was killed.

    Nobody may be writing there.
    """
    for path in folder.glob(".*.partial*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Try whether files can be written in a folder, that may not exist yet; a long work must not fail at its end.

    Nothing is left behind, and the folder is not made.

    Raises:
        ValueError: it cannot be written; the message says why.
    """
    folder = Path(folder)
    existing = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written as an output folder ({error.strerror})") from error


def free_name(path: Path) -> Path:
    """`path`, or where that is taken the first of NAME-2, NAME-3, ... that is not."""
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(p for p in itertools.chain([path], names) if not p.exists())


def walk_files(root: str | os.PathLike[str], *, follow_links: bool = False) -> Iterator[Path]:
    """Files below `root` in the order of their names, without hidden ones and those that are being written.

    With `follow_links` folders behind links count too, each once.
    """
    seen = set()
    for folder, below, names in os.walk(root, followlinks=follow_links):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith("."))
        if real not in seen:
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        seen.add(real)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
