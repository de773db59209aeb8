"""Credits for the sounds that an ear was trained on: `python -m training.recipes.mini.ear.credits --store STORE`.

Prints Markdown: a section for each repository or package, its licence, and the sources in it with their files.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from .licences import permissive
from .store import read_index

TRAINED_ON = ("train", "valid")
_MOST = 8  # files that are named of one source


def credits_of(rows: list[dict]) -> str:
    """The credits of the rows of a store that were trained on.

    Raises:
        ValueError: a row was trained on that must not be.
    """
    groups: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.get("split") not in TRAINED_ON:
            continue
        if not permissive(row):
            raise ValueError(f"{row['id']}: {row['licence']!r} is no licence to train on")
        where = row.get("repository") or row.get("package") or "own"
        version = row.get("commit", "")[:12] or row.get("version", "")
        files = groups[where, version, row["licence"]][row["source"]]
        if row.get("path") and row["path"] not in files:
            files.append(row["path"])
    lines = ["# Sounds that the ear was trained on", ""]
    for (where, version, licence), sources in sorted(groups.items()):
        lines += [f"## {where} {version}".rstrip(), "", f"{licence}; {len(sources)} sources.", ""]
        for source, files in sorted(sources.items()):
            more = f", and {len(files) - _MOST} more" if len(files) > _MOST else ""
            lines.append(f"- {source}: {', '.join(files[:_MOST])}{more}" if files else f"- {source}")
        lines.append("")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.mini.ear.credits", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--store", type=Path, required=True, help="folder that training.recipes.mini.ear.build made")
    options = parser.parse_args(argv)
    try:
        print(credits_of(read_index(options.store)))
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
