"""Who is trained on and who judges: a split by source, so that no recording is on both sides."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Collection

from .licences import permissive

UNKNOWN_KINDS = (
    *("velcro", "scissors", "zipper", "pencil sharpener", "tape"),
    *("table tennis", "theremin", "jaw harp", "didgeridoo", "printer"),
)
"""Kinds of which nothing is trained on: what mini says of them shows what it says of the unknown."""
TEST_SHARE, VALID_SHARE = 0.25, 0.08


def assign_splits(rows: list[dict], *, judge_sources: Collection[str] = ()) -> list[dict]:
    """Set `split` of every row: "train", "valid", "test", "unknown" or "unused".

    Of each kind about a quarter of the sources goes to the test split, at least one where there are two; of kinds with
    six or more about a twelfth to validation. Rare kinds choose first. Sounds that may not be trained on are in the
    test split if they are labelled, else unused. Unlabelled sounds of a test source are unused. A source that has a
    split keeps it, so that what a run was trained on never judges it when sounds are added.

    Args:
        rows: with `source`, `kind` (or None), `licence`, and maybe `split`. They get their `split` in place.
        judge_sources: never trained on.
    """
    sources: dict[str, dict[str, None]] = defaultdict(dict)  # of each kind, in a fixed order
    counts = Counter((row["kind"], row["source"]) for row in rows)
    for row in sorted(rows, key=lambda row: (zlib.crc32(row["source"].encode()), row["source"])):
        kind = row["kind"]
        if kind is None or kind in UNKNOWN_KINDS or row.get("rendered") or not permissive(row):
            continue
        sources[kind][row["source"]] = None
    chosen: dict[str, str] = {}
    for row in rows:
        if permissive(row) and row["kind"] not in UNKNOWN_KINDS and row.get("split") in ("train", "valid", "test"):
            chosen[row["source"]] = row["split"]
    chosen |= dict.fromkeys(judge_sources, "test")
    judged = Counter(row["kind"] for row in rows if not permissive(row) and not row.get("rendered"))
    for kind in sorted(sources, key=lambda kind: (len(sources[kind]), kind)):
        mine = list(sources[kind])
        clips = sum(counts[kind, source] for source in mine)
        wanted = round(TEST_SHARE * len(mine)) if len(mine) > 2 or judged[kind] else len(mine) // 2
        wanted = max(wanted, 1) if len(mine) > 1 and not judged[kind] else wanted
        # A source with most of a kind's clips is worth more in training.
        small = [source for source in mine if counts[kind, source] <= 0.5 * clips] or mine[:1]
        have = sum(chosen.get(source) == "test" for source in mine)
        for source in small if len(mine) > 1 else ():
            if have >= wanted:
                break
            if source not in chosen:
                chosen[source] = "test"
                have += 1
        if len(mine) >= 6:
            free = [source for source in small if source not in chosen]
            for source in free[: max(1, round(VALID_SHARE * len(mine)))]:
                chosen[source] = "valid"
        for source in mine:
            chosen.setdefault(source, "train")
    for row in rows:
        split = chosen.get(row["source"], "train")
        if row["kind"] in UNKNOWN_KINDS:
            split = "unknown"
        elif not permissive(row):
            split = "test"
        if row["kind"] is None and split in ("test", "valid"):
            split = "unused"
        row["split"] = split
    unknown = {row["source"] for row in rows if row["split"] == "unknown"}
    for row in rows:  # the other clips of such a recording may hold the same sound
        if row["source"] in unknown and row["split"] == "train" and row["kind"] is None:
            row["split"] = "unused"
    return rows
