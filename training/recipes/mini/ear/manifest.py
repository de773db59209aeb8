"""The manifest of the sounds that come from public repositories, and the originals it names.

`sounds.csv` has a row for each original file, `repositories.csv` the commit of each repository.

    python -m training.recipes.mini.ear.manifest --fetch FOLDER      # needs git, a network, and npm for a few
    python -m training.recipes.mini.ear.manifest --write --store STORE

The first gets every original by commit and path and writes `sounds.jsonl`, as `build` reads it; what is there is not
fetched again. The second writes both tables of a store, for whoever adds sounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import subprocess
from collections import defaultdict
from pathlib import Path

from ..packages import Packages
from .store import read_index

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
HOST = "https://github.com"
COLUMNS = ("repository", "path", "kind", "licence", "source", "split")
_NPM = "npm:"
_AT_ONCE = 500  # paths of one git command


def read_manifest(folder: Path = HERE) -> list[dict]:
    """The rows of `sounds.csv`, each with its repository's `commit`; `kind` is None where a sound is unlabelled."""
    with (folder / "repositories.csv").open(newline="", encoding="utf-8") as file:
        commits = {row["repository"]: row["commit"] for row in csv.DictReader(file)}
    with (folder / "sounds.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{**row, "kind": row["kind"] or None, "commit": commits[row["repository"]]} for row in rows]


def write_manifest(rows: list[dict], folder: Path = HERE) -> int:
    """Write both tables of the rows of a store that name a repository; how many files they name.

    Raises:
        ValueError: one repository at two commits.
    """
    commits: dict[str, str] = {}
    files: dict[tuple[str, str], dict] = {}
    for row in rows:
        if "repository" not in row or row.get("split") == "unused":
            continue
        commit = commits.setdefault(row["repository"], row["commit"])
        if commit != row["commit"]:
            raise ValueError(f"{row['repository']}: commits {commit} and {row['commit']}; expected one")
        # A long original gives several clips; one that is labelled says what it is.
        known = files.setdefault((row["repository"], row["path"]), row)
        if known["kind"] is None and row["kind"] is not None:
            files[row["repository"], row["path"]] = row
    with (folder / "repositories.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("repository", "commit"), *sorted(commits.items())])
    with (folder / "sounds.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(files[key] for key in sorted(files))
    return len(files)


def fetch(folder: Path, *, host: str = HOST, rows: list[dict] | None = None) -> list[dict]:
    """Get the originals; the rows of those that could be had, which are `folder/sounds.jsonl` too.

    Args:
        host: what stands before a repository's name. rows: of the manifest; None = all.
    """
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in read_manifest() if rows is None else rows:
        groups[row["repository"]].append(row)
    kept = []
    for number, (repository, mine) in enumerate(groups.items()):
        log.info("%s (%d of %d): %d files", repository, number + 1, len(groups), len(mine))
        root = folder / repository.replace(":", "+").replace("/", "+")
        missing = [row["path"] for row in mine if not (root / row["path"]).is_file()]
        try:
            if repository.startswith(_NPM):
                root = Packages(folder).npm(repository.removeprefix(_NPM))
            elif missing:
                _checkout(f"{host}/{repository}", mine[0]["commit"], missing, root)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            log.warning("%s cannot be had: %s", repository, getattr(error, "stderr", None) or error)
        for row in mine:
            path = root / row["path"]
            if path.is_file():
                kept.append({**row, "audio": path.relative_to(folder).as_posix()})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    (folder / "sounds.jsonl").write_text(lines, encoding="utf-8")
    return kept


def _checkout(address: str, commit: str, paths: list[str], root: Path) -> None:
    """Files of one commit of a repository, without the rest of it."""
    root.mkdir(parents=True, exist_ok=True)

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True)

    git("init", "-q")
    git("fetch", "-q", "--depth", "1", "--filter=blob:none", address, commit)
    git("config", "remote.origin.url", address)
    git("config", "remote.origin.promisor", "true")
    git("config", "remote.origin.partialclonefilter", "blob:none")
    for i in range(0, len(paths), _AT_ONCE):
        git("--literal-pathspecs", "checkout", "-q", commit, "--", *paths[i : i + _AT_ONCE])


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.mini.ear.manifest", description=(__doc__ or "").splitlines()[0]
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--fetch", type=Path, help="folder for the originals")
    way.add_argument("--write", action="store_true", help="write the tables of --store")
    parser.add_argument("--store", type=Path, help="folder that training.recipes.mini.ear.build made")
    parser.add_argument("--host", default=HOST, help="what stands before a repository's name (default %(default)s)")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.write and not options.store:
        parser.error("--write needs --store")
    try:
        if options.write:
            print(f"{write_manifest(read_index(options.store))} files")
        else:
            options.fetch.mkdir(parents=True, exist_ok=True)
            print(f"{options.fetch}: {len(fetch(options.fetch, host=options.host))} files")
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
