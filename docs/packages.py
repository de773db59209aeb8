"""The licences of all packages that the constraints pin: `python docs/packages.py` writes `docs/packages.md`.

It reads what each package says of itself, in the environment that it runs in: with `pip install -c constraints.txt -e
".[lint,test]"` all of them are there.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Packages and their licences

What each package that `constraints.txt` pins says of itself; written by `python docs/packages.py`. None of them is
shipped with audio2img. Wheels may hold libraries under other terms, as those of PyTorch, NumPy and PyAV do.

| package | version | licence |
|---|---|---|
"""


_WORDS = {
    "Permission is hereby granted, free of charge": "MIT",
    "Redistribution and use in source and binary forms": "BSD",
}  # that a licence is known by


def pinned() -> list[tuple[str, str]]:
    """(name, version) of each line of the constraints."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [(found[1], found[2]) for line in lines if (found := re.match(r"([\w.-]+)==([\w.+-]+)", line))]


def licence(package: Distribution) -> str:
    """The licence in a line: as an expression, by the classifiers, by the field, or by the words of its file."""
    about = package.metadata
    if about.get("License-Expression"):
        return about["License-Expression"]
    names = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License :: ")]
    names = [name for name in names if name != "OSI Approved"]
    if names:
        return ", ".join(names)
    field = (about.get("License") or "").strip().splitlines()
    if field:
        return field[0].strip().replace("|", "/")
    files = [file.read_text() for file in package.files or () if file.name.startswith("LICEN")]
    text = " ".join(" ".join(files).split())
    return next((name for words, name in _WORDS.items() if words in text), "says nothing")


def main() -> None:
    rows, absent = [], []
    for name, version in pinned():
        try:
            rows.append(f"| {name} | {version} | {licence(distribution(name))} |\n")
        except PackageNotFoundError:
            absent.append(name)
    if absent:
        raise SystemExit(f"not installed here: {', '.join(absent)}")
    PAGE.write_text(HEAD + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
