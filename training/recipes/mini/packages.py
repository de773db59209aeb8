"""Packages of Debian and npm, fetched into a cache folder and unpacked there; nothing is installed."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import tarfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from .archives import Archive, open_archive

log = logging.getLogger(__name__)


class Packages:
    """The packages of one cache folder.

    Args:
        cache: a folder; `deb/` and `npm/` hold what was fetched, `files/` what was unpacked.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._lists: dict[str, list[str]] = {}
        self._archives: dict[Path, Archive] = {}

    def debian(self, name: str) -> Path:
        """The `.deb` of a package, downloaded with apt-get when it is not in the cache yet.

        Raises:
            FileNotFoundError: apt-get is missing or does not give the package.
        """
        folder = self.cache / "deb"
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(folder.glob(f"{name}_*.deb"))
        if not found:
            log.info("fetching %s", name)
            command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name]
            run(command, cwd=folder, what=f"Debian package {name}")
            found = sorted(folder.glob(f"{name}_*.deb"))
        if not found:
            raise FileNotFoundError(f"{name}: apt-get gave no package")
        return found[-1]

    def version(self, name: str) -> str:
        """The version of a fetched Debian package, e.g. "1:1.16.9-1"."""
        return self.debian(name).name.split("_")[1].replace("%3a", ":")

    def npm(self, name: str) -> Path:
        """The folder of an unpacked npm package (the one with package.json), fetched with `npm pack`."""
        folder = self.cache / "npm" / name.replace("/", "+")
        if not (folder / "package" / "package.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            log.info("fetching %s", name)
            run(["npm", "pack", "--silent", name], cwd=folder, what=f"npm package {name}")
            with tarfile.open(next(folder.glob("*.tgz"))) as archive:
                archive.extractall(folder, filter="data")
        return folder / "package"

    def npm_version(self, name: str) -> str:
        """The version of a fetched npm package."""
        return json.loads((self.npm(name) / "package.json").read_text(encoding="utf-8"))["version"]

    def listing(self, name: str) -> list[str]:
        """The paths of the regular files of a Debian package, without a leading `./`."""
        if name not in self._lists:
            deb = self.debian(name)
            kept = self.cache / "lists" / f"{deb.name}.txt"  # a package must be unpacked in whole to be listed
            if not kept.is_file():
                lines = run(["dpkg-deb", "-c", str(deb)], what=name).splitlines()
                rows = (line.split(None, 5) for line in lines if line.startswith("-"))
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text("".join(row[5].removeprefix("./") + "\n" for row in rows), encoding="utf-8")
            self._lists[name] = kept.read_text(encoding="utf-8").splitlines()
        return self._lists[name]

    def unpacked(self, name: str, members: list[str]) -> Path:
        """Unpack these files of a Debian package; the folder in which their paths start."""
        folder = self.cache / "files" / name
        missing = [member for member in members if not (folder / member).exists()]
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
            listed = folder / "wanted.txt"
            listed.write_text("".join(f"./{member}\n" for member in missing), encoding="utf-8")
            with subprocess.Popen(
                ["dpkg-deb", "--fsys-tarfile", str(self.debian(name))], stdout=subprocess.PIPE
            ) as archive:
                command = ["tar", "-x", "-C", str(folder), "--no-same-owner", "--no-wildcards", "-T", str(listed)]
                run(command, stdin=archive.stdout, what=f"unpacking {name}")
            listed.unlink()
        return folder

    def files(self, name: str, root: str, patterns: str) -> dict[str, Path]:
        """The files of a Debian package that match patterns: full name -> the file, unpacked.

        Args:
            root: put before every pattern; `a.zip!` in it or in the pattern names an archive in the package.
            patterns: separated by spaces; `*` does not cross a `/`, `**/` does.

        Returns:
            in the order of the patterns, sorted within each; the same file only once.

        Raises:
            FileNotFoundError: a pattern matches no file, so the table and the package disagree.
        """
        found: dict[str, Path] = {}
        wanted = [(root + pattern).partition("!")[::2] for pattern in patterns.split()]
        outer = {pattern: matching(self.listing(name), pattern) for pattern, _ in wanted}
        folder = self.unpacked(name, sorted({member for members in outer.values() for member in members}))
        for pattern, inner in wanted:
            new: dict[str, Path] = {}
            for member in outer[pattern]:
                new |= self._inside(name, member, inner) if inner else {member: folder / member}
            if not new:
                raise FileNotFoundError(f"{name} {self.version(name)}: nothing matches {pattern} {inner}".rstrip())
            found |= {key: path for key, path in new.items() if key not in found}
        return found

    def _inside(self, name: str, member: str, pattern: str) -> dict[str, Path]:
        """The members of an archive in a package that match, written beside it."""
        path = self.cache / "files" / name / member
        if path not in self._archives:
            self._archives[path] = open_archive(path)
        archive, found = self._archives[path], {}
        for entry in matching(archive.names(), pattern):
            copy = path.with_name(path.name + ".d") / entry.lstrip("/")
            if not copy.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(archive.read(entry))
            found[f"{member}!{entry}"] = copy
        return found

    def copyright(self, name: str) -> Path | None:
        """The copyright file of a Debian package, or None if it has none of its own."""
        member = f"usr/share/doc/{name}/copyright"
        return self.unpacked(name, [member]) / member if member in self.listing(name) else None


def matching(names: list[str], pattern: str) -> list[str]:
    """The sound or other files that a pattern means, sorted; see `Packages.files`."""
    test = _compiled(pattern)
    return sorted(name for name in names if test.fullmatch(name) and not name.endswith("/"))


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = []
    for piece in re.split(r"(\*\*/|\*|\?|\[[^]]+\])", pattern):
        parts.append(
            {"**/": r"(?:.*/)?", "*": r"[^/]*", "?": r"[^/]"}.get(piece)
            or (piece if piece.startswith("[") and piece.endswith("]") else re.escape(piece))
        )
    return re.compile("".join(parts))


def safe_name(path: str) -> str:
    """A file name for a member of a package: its own name without the ending, letters, digits, `-` and `_` only."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(path.replace("!", "/")).with_suffix("").name).strip("-") or "x"


def run(command: list[str], *, what: str, cwd: Path | None = None, stdin: IO[bytes] | None = None) -> str:
    """What a command prints.

    Raises:
        FileNotFoundError: the command is not there, or it fails; the message names `what` and the last line.
    """
    try:
        done = subprocess.run(
            command, cwd=cwd, stdin=stdin, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what}: this needs the command {command[0]}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise FileNotFoundError(f"{what}: {command[0]} failed: {last[0]}")
    return done.stdout
