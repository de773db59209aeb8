"""The table that says what was built."""

from __future__ import annotations

from collections import defaultdict


def table(sounds: list[dict], pictures: list[dict]) -> str:
    """A line for each concept: sources, recordings, clips and seconds to train on, the same held out, and pictures.

    A recording is one file of a package; what is rendered from a soundfont or synthesised counts as one recording.
    """
    lines = [
        f"{'concept':<12}{'train: sources':>15}{'recordings':>11}{'clips':>6}{'seconds':>8}"
        f"{'valid: clips':>14}{'test: sources':>15}{'recordings':>11}{'clips':>6}{'pictures':>10}"
    ]
    groups: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in sounds:
        groups[row["concept"]][row["split"]].append(row)
    for concept, splits in groups.items():
        train, valid, test = splits["train"], splits["valid"], splits["test"]
        drawn = sum(row["concept"] == concept for row in pictures)
        lines.append(
            f"{concept:<12}{_sources(train):>15}{_recordings(train):>11}{len(train):>6}"
            f"{sum(row['seconds'] for row in train):>8.0f}{len(valid):>14}"
            f"{_sources(test):>15}{_recordings(test):>11}{len(test):>6}{drawn:>10}"
        )
    counts = [sum(len(splits[name]) for splits in groups.values()) for name in ("train", "valid", "test")]
    lines.append(f"{len(groups)} concepts; clips: {counts[0]} train, {counts[1]} valid, {counts[2]} test")
    return "\n".join(lines)


def credits(sounds: list[dict], pictures: list[dict]) -> str:
    """Markdown: the packages whose sounds and pictures were trained on, with version, licence and number."""
    heard = [row for row in sounds if row["split"] == "train"]
    drawn = [row for row in pictures if row["role"] == "draw"]
    parts = [
        "# What mini was trained on",
        "Packages of Debian and npm (those with an @ or `tonejs`), which name the authors in their own copyright files."
        " `synthesis` and `espeak-ng` are sounds that the recipe makes itself.",
    ]
    for title, rows in (("Sounds: the audio encoder", heard), ("Pictures: all else", drawn)):
        groups: dict[tuple[str, str, str], int] = defaultdict(int)
        for row in rows:
            groups[row["package"], row["version"], row["licence"]] += 1
        lines = ["| package | version | licence | number |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(key)} | {count} |" for key, count in sorted(groups.items())]
        parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _sources(rows: list[dict]) -> int:
    return len({row["source"] for row in rows})


def _recordings(rows: list[dict]) -> int:
    return len({row["source"] if row["synthesised"] else (row["source"], row["file"]) for row in rows})
