"""The hand-made tables of the recipe: the concepts with their captions, and which recordings belong to them."""

from __future__ import annotations

from pathlib import Path

import yaml

HERE = Path(__file__).parent
SPLITS = ("train", "valid", "test")
NOT_TRAINED_ON = {"GPL-2.0", "GFDL-1.3", "Artistic-1.0"}
"""Licences that do not go together with the weights' GPL-3.0-or-later, unlike the other ones of our sources."""


def concepts() -> dict[str, dict]:
    """concepts.yaml: concept -> its entry, in the order of the file."""
    return yaml.safe_load((HERE / "concepts.yaml").read_text(encoding="utf-8"))


def recordings() -> dict[str, dict]:
    """recordings.yaml: Debian package -> its entry."""
    return yaml.safe_load((HERE / "recordings.yaml").read_text(encoding="utf-8"))


def plain_name(concept: str, entry: dict) -> str:
    """What a concept is called in one word or two: "a piano", "rain"."""
    article = entry.get("plain", "an" if concept[0] in "aeiou" else "a")
    return f"{article} {concept}".strip()


def captions(concept: str, entry: dict) -> list[str]:
    """The captions of a concept: its name in four wordings, then its own."""
    noun = plain_name(concept, entry)
    return list(dict.fromkeys([concept, noun, f"the sound of {noun}", f"{noun} can be heard", *entry.get("says", ())]))


def split_of(entry: dict, source: str) -> str:
    """The split of a source of a concept: "test" or "valid" where the table says so, else "train"."""
    for split in ("test", "valid"):
        if source in entry.get(split, ()):
            return split
    return "train"
