"""Pack sounds for training: `python -m training.recipes.mini.ear.build --store STORE --sounds FOLDER`.

A folder holds `sounds.jsonl`, a row a clip: `audio` (a path in the folder), `kind` (or null), `licence`, `source`
(recordings of one source are not independent of each other), and where the original is from. More folders can be added
to a store at any time; what it has is not read again.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path

import torch

from audio2img_core import load_audio

from ..packages import Packages
from .debian import recorded
from .kinds import canonical
from .renders import rendered
from .splits import assign_splits
from .store import StoreWriter, write_index
from .teacher import RATE

log = logging.getLogger(__name__)
KEPT = ("kind", "licence", "source", "share_alike", "repository", "commit", "package", "version", "path", "rendered")
KEPT += ("split",)  # of the manifest
HERE = Path(__file__).parent
LONGEST = 180.0  # seconds of one file
_SHORTEST = 0.1  # seconds


def add_folder(writer: StoreWriter, folder: Path, *, excluded: Collection[int] = ()) -> int:
    """Add the clips of a folder with a manifest; how many are new.

    Args:
        excluded: Freesound ids; sounds that name one are left out.

    Raises:
        FileNotFoundError: no manifest.
    """
    manifest = folder / "sounds.jsonl"
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: no such file; expected a row of JSON a clip")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    new = 0
    for number, row in enumerate(rows):
        name = f"{folder.name}/{row['audio']}"
        if name in writer.ids or set(freesound_ids(row)) & set(excluded):
            continue
        try:
            waveform, _ = load_audio(folder / row["audio"], duration=LONGEST, sample_rate=RATE)
        except (ValueError, FileNotFoundError) as error:
            log.warning("%s", error)
            continue
        if waveform.shape[1] < _SHORTEST * RATE:
            continue
        known = {key: row[key] for key in KEPT if row.get(key) is not None}
        new += writer.add(waveform.mean(0), {"id": name, "kind": None, **known})
        if number % 500 == 499:
            log.info("%s: %d of %d", folder.name, number + 1, len(rows))
    return new


def freesound_ids(row: dict) -> list[int]:
    """Numbers in a row's source and file name that could be a Freesound id."""
    text = f"{row['source']} {row.get('path', '').rsplit('/', 1)[-1]}"
    return [int(number) for number in re.findall(r"(?<!\d)\d{4,7}(?!\d)", text)]


def summary(rows: list[dict]) -> str:
    """Hours, clips, kinds and sources of each split, as lines."""
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        groups[row["split"]].append(row)
    lines = []
    for split, mine in sorted(groups.items()):
        hours = sum(row["samples"] for row in mine) / RATE / 3600
        kinds = Counter(row["kind"] for row in mine if row["kind"] is not None)
        sources = len({row["source"] for row in mine})
        lines.append(
            f"{split:8} {hours:6.2f} h {len(mine):6d} clips {sources:5d} sources "
            f"{len(kinds):4d} kinds {sum(kinds.values()):6d} labelled"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.mini.ear.build", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--store", type=Path, required=True, help="folder of the packed sounds; it grows")
    parser.add_argument("--sounds", type=Path, nargs="*", default=[], help="folders with a sounds.jsonl")
    parser.add_argument(
        "--exclude",
        type=Path,
        default=HERE / "excluded.txt",
        help="Freesound ids to leave out (default: ESC-50's and UrbanSound8K's)",
    )
    parser.add_argument(
        "--judge", type=Path, default=HERE / "judge.txt", help="sources that are never trained on, one a line"
    )
    parser.add_argument("--cache", type=Path, help="adds Debian's recordings and renders; where packages are kept")
    parser.add_argument(
        "--largest", type=float, default=80.0, help="size in MB of the Debian packages to read (default %(default)s)"
    )
    parser.add_argument(
        "--phrases", type=int, default=24, help="rendered for each instrument and soundfont (default %(default)s)"
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    try:
        excluded = {int(line) for line in options.exclude.read_text(encoding="utf-8").split()}
        judges = options.judge.read_text(encoding="utf-8").splitlines()
        writer = StoreWriter(options.store)
        for folder in options.sounds:
            log.info("%s: %d new clips", folder, add_folder(writer, folder, excluded=excluded))
        if options.cache:
            packages = Packages(options.cache)
            sounds = recorded(packages, largest=options.largest, have=writer.ids)
            log.info("Debian: %d new recordings", sum(writer.add(sound, row) for row, sound in sounds))
            sounds = rendered(packages, options.cache / "work", options.phrases) if options.phrases else ()
            log.info("Soundfonts: %d new phrases", sum(writer.add(sound, row) for row, sound in sounds))
        for row in writer.rows:
            row["kind"] = canonical().get(row["kind"], row["kind"])
        for row in assign_splits(writer.rows, judge_sources=judges):
            if set(freesound_ids(row)) & excluded:
                row["split"] = "unused"
        write_index(options.store, writer.rows)
        print(summary(writer.rows))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
