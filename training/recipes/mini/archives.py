"""Archives in which packages keep sounds: zip and pk3, Qt resources (.rcc), OpenTTD's .cat, OpenClonk's .ocg."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Protocol


class Archive(Protocol):
    """Named files in one file."""

    def names(self) -> list[str]:
        """The names of all members."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a member."""
        ...


class Zip(Archive):
    """A zip file; `.pk3` of Quake's descendants are ones too."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self._names = [name for name in self._zip.namelist() if not name.endswith("/")]

    def names(self) -> list[str]:
        return self._names

    def read(self, name: str) -> bytes:
        return self._zip.read(name)


class QtResources(Archive):
    """A binary Qt resource collection, format versions 1 to 3: a tree of nodes, a table of names, and the data.

    The layout is that of Qt's own `rcc` (qtbase, src/tools/rcc/rcc.cpp).
    """

    _COMPRESSED, _FOLDER = 1, 2

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        if self._bytes[:4] != b"qres":
            raise ValueError(f"{path}: not a Qt resource file")
        version, self._tree, self._data, self._names = struct.unpack(">4I", self._bytes[4:20])
        self._node = 14 if version < 2 else 22
        self._members = dict(self._walk(0, ""))

    def names(self) -> list[str]:
        return list(self._members)

    def read(self, name: str) -> bytes:
        flags, offset = self._members[name]
        start = self._data + offset
        (size,) = struct.unpack(">I", self._bytes[start : start + 4])
        content = self._bytes[start + 4 : start + 4 + size]
        # qCompress puts the length before the zlib stream
        return zlib.decompress(content[4:]) if flags & self._COMPRESSED else content

    def _walk(self, index: int, above: str):
        at = self._tree + index * self._node
        offset, flags = struct.unpack(">IH", self._bytes[at : at + 6])
        path = above if index == 0 else f"{above}/{self._name(offset)}"
        if flags & self._FOLDER:
            count, first = struct.unpack(">II", self._bytes[at + 6 : at + 14])
            for child in range(first, first + count):
                yield from self._walk(child, path)
        else:
            (start,) = struct.unpack(">I", self._bytes[at + 10 : at + 14])
            yield path, (flags, start)

    def _name(self, offset: int) -> str:
        at = self._names + offset
        (length,) = struct.unpack(">H", self._bytes[at : at + 2])
        return self._bytes[at + 6 : at + 6 + 2 * length].decode("utf-16-be")


class SoundCat(Archive):
    """OpenTTD's sound container: a table of offsets and sizes, then for each sound its description and a WAV file.

    Members are called by their number, "00.wav" and so on, as OpenTTD does.
    """

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        first = struct.unpack("<I", self._bytes[:4])[0] & 0x7FFFFFFF
        self._table = [struct.unpack("<II", self._bytes[at : at + 8]) for at in range(0, first, 8)]

    def names(self) -> list[str]:
        return [f"{number:02d}.wav" for number in range(len(self._table))]

    def read(self, name: str) -> bytes:
        offset, size = self._table[int(name.removesuffix(".wav"))]
        offset &= 0x7FFFFFFF  # the top bit says that this is a newer container
        start = offset + 1 + self._bytes[offset]
        return self._bytes[start : start + size]


class ClonkGroup(Archive):
    """OpenClonk's group file: gzip under another magic number; a scrambled header, a table of entries, the contents.

    The layout is that of the engine (src/c4group/CStdFile.cpp, C4Group.cpp). A group may hold other groups.
    """

    _HEADER, _ENTRY = 204, 316

    def __init__(self, path: Path) -> None:
        self._members = dict(self._walk(gzip.decompress(b"\x1f\x8b" + path.read_bytes()[2:]), ""))

    def names(self) -> list[str]:
        return list(self._members)

    def read(self, name: str) -> bytes:
        return self._members[name]

    def _walk(self, content: bytes, above: str):
        header = bytearray(content[: self._HEADER])
        for at in range(0, self._HEADER - 2, 3):
            header[at], header[at + 2] = header[at + 2], header[at]
        (count,) = struct.unpack("<i", bytes(byte ^ 237 for byte in header[36:40]))
        start = self._HEADER + count * self._ENTRY
        for index in range(count):
            entry = content[self._HEADER + index * self._ENTRY :][: self._ENTRY]
            name = above + entry[: entry.index(0)].decode("latin-1")
            _, is_group, size, _, offset = struct.unpack("<5i", entry[260:280])
            inside = content[start + offset : start + offset + size]
            if is_group:
                yield from self._walk(inside, f"{name}/")
            else:
                yield name, inside


def open_archive(path: Path) -> Archive:
    """The archive in a file, by the ending of its name.

    Raises:
        ValueError: no archive that is known here.
    """
    kinds = {".zip": Zip, ".pk3": Zip, ".rcc": QtResources, ".cat": SoundCat, ".ocg": ClonkGroup}
    if path.suffix not in kinds:
        raise ValueError(f"{path}: no known archive; allowed: {', '.join(kinds)}")
    return kinds[path.suffix](path)
