"""Files by path or URL: local paths, and through fsspec whatever has a protocol (s3://, gs://, https://, ...).

What a protocol needs beyond fsspec (s3fs, gcsfs) is installed by who uses it. Nothing that faces a network (the nodes,
the web UI) opens a URL.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..checks import first_line
from .files import walk_files, whole_file

_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C: is a disk
# Stores without folders; to make one would make a bucket.
_FLAT = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2", "hf"))
_COMMON = ("s3", "gs", "az", "hf", "http", "https", "file", "memory")


def is_url(name: object) -> bool:
    """Whether this is a URL with a protocol; a path otherwise."""
    return isinstance(name, str) and _PROTOCOL.match(name) is not None


def joined(folder: str, name: str) -> str:
    """A file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else os.path.join(folder, name)


def base_name(name: str) -> str:
    """The last part of a path or URL."""
    return name.rstrip("/").rsplit("/", 1)[-1] if is_url(name) else os.path.basename(name)


def beside(file: str, other: str) -> str:
    """What a file calls `other`: a URL, a name relative to the file's folder or, of a local file, any path."""
    if is_url(other):
        return other
    return f"{file.rsplit('/', 1)[0]}/{other}" if is_url(file) else str(Path(file).parent / other)


def absolute(name: str) -> str:
    """A path as other processes understand it; a URL as it is."""
    return name if is_url(name) else os.path.abspath(name)


def below(file: str, folder: str) -> str:
    """The name of a file relative to a folder above it, with slashes."""
    if is_url(folder):
        return file[len(folder.rstrip("/")) :].lstrip("/")
    return Path(file).relative_to(folder).as_posix()


@contextlib.contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """A file for reading, in binary, seekable; only what is read is fetched.

    Raises:
        OSError, ValueError, ImportError: one line that names the path or URL.
    """
    if not is_url(name):
        with open(name, "rb") as file:
            yield file
        return
    with _store(name) as (system, path):
        file = system.open(path, "rb")
    with file:
        yield cast(BinaryIO, _Named(file, name))


def read(name: str, first: int = 0, last: int | None = None) -> bytes:
    """The bytes of a file from `first` up to `last`, exclusive.

    Raises:
        OSError, ValueError, ImportError: as `opened`.
    """
    if not is_url(name):
        with open(name, "rb") as file:
            file.seek(first)
            return file.read(-1 if last is None else max(last - first, 0))
    with _store(name) as (system, path):
        return system.cat_file(path, start=first or None, end=last)


def write(name: str, content: bytes) -> None:
    """Write a complete file or none, in the place of one that is there; its folder is made.

    Raises:
        OSError, ValueError, ImportError: as `opened`.
    """
    if not is_url(name):
        with whole_file(name) as partial:
            partial.write_bytes(content)
        return
    with _store(name) as (system, path):
        try:
            if _FLAT.intersection(system.protocol if isinstance(system.protocol, tuple) else [system.protocol]):
                system.pipe_file(path, content)  # an object is there when all of it is
            else:
                folder, _, last = path.rpartition("/")
                system.makedirs(folder, exist_ok=True)
                system.pipe_file(f"{folder}/.{last}.partial", content)
                system.mv(f"{folder}/.{last}.partial", path)
        except FileNotFoundError as error:
            raise OSError(f"cannot be written: {first_line(error)}") from error


def kind(name: str) -> str | None:
    """ "file", "folder" or None where there is nothing.

    Raises:
        OSError, ValueError, ImportError: as `opened`.
    """
    if not is_url(name):
        return "folder" if os.path.isdir(name) else "file" if os.path.exists(name) else None
    with _store(name, fresh=True) as (system, path):
        return "folder" if system.isdir(path) else "file" if system.exists(path) else None


def files_below(folder: str) -> list[str]:
    """All files below a folder in the order of their names, without hidden ones; none where there is no folder.

    Raises:
        OSError, ValueError, ImportError: as `opened`.
    """
    if not is_url(folder):
        return [str(path) for path in walk_files(folder, follow_links=True)]
    with _store(folder, fresh=True) as (system, path):
        found = system.find(path) if system.exists(path) else []
    names = sorted(file[len(path.rstrip("/")) :].lstrip("/") for file in found)
    return [joined(folder, name) for name in names if not re.search(r"(^|/)\.", name)]


def matching(pattern: str) -> list[str]:
    """The files that a pattern with * and ? names, sorted.

    Raises:
        OSError, ValueError, ImportError: as `opened`.
    """
    if not is_url(pattern):
        return sorted(glob.glob(pattern))
    with _store(pattern, fresh=True) as (system, path):
        found = sorted(system.glob(path))
    protocol, rooted = pattern.split("://", 1)
    return [f"{protocol}://{file if rooted.startswith('/') else file.lstrip('/')}" for file in found]


def absent(names: list[str]) -> list[str]:
    """Those of these files that are not there; a store is asked once for each of their folders.

    Raises:
        OSError, ValueError, ImportError: as `opened`.
    """
    if not names or not is_url(names[0]):
        return [name for name in names if not os.path.isfile(name)]
    with _store(names[0], fresh=True) as (system, only):
        if len(names) == 1:
            return [] if system.exists(only) else names
        paths = {name: system._strip_protocol(name) for name in names}
        there: set[str] = set()
        for folder in {system._parent(path) for path in paths.values()}:
            with contextlib.suppress(FileNotFoundError):
                there.update(system.ls(folder, detail=False))
        return [name for name in names if paths[name] not in there]


@contextlib.contextmanager
def _store(name: str, *, fresh: bool = False) -> Iterator[tuple[Any, str]]:
    """The file system of a URL and the path in it; `fresh` forgets what it remembers of other calls."""
    import fsspec  # 0.1 s that local files need not wait for

    protocol = name.split("://", 1)[0]
    if protocol not in fsspec.available_protocols():
        known = ", ".join(f"{each}://" for each in _COMMON)
        raise ValueError(f"{name}: unknown kind of address {protocol}://; known are {known}")
    with _one_line(name):
        try:
            system, path = fsspec.core.url_to_fs(name)
        except ImportError as error:  # fsspec's message names what to install
            raise ImportError(f"{name}: {first_line(error)}") from error
        if fresh:
            system.invalidate_cache()
        yield system, path


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Whatever a store's library raises, as an error of one line that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such file") from error
    except (ImportError, ValueError) as error:
        if str(error).startswith(name):
            raise
        raise ValueError(f"{name}: {first_line(error)}") from error
    except Exception as error:  # each library has errors of its own: no credentials, no such host, ...
        kind = "" if type(error) is OSError else f"{type(error).__name__}: "
        raise OSError(f"{name}: {kind}{first_line(error)}") from error


class _Named:
    """A file object with the name that messages use."""

    def __init__(self, file: Any, name: str) -> None:
        self._file, self.name = file, name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._file, attribute)

    def read(self, *sizes: int) -> bytes:
        with _one_line(self.name):
            return self._file.read(*sizes)

    def readinto(self, buffer: Any) -> int:
        with _one_line(self.name):
            return self._file.readinto(buffer)

    def seek(self, *places: int) -> int:
        with _one_line(self.name):
            return self._file.seek(*places)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)
