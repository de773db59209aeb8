"""Every sound of the data set: recordings out of packages, rendered instruments, speech and synthesis, as clips."""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from audio2img_core.audio.io import SAMPLE_RATE

from ...data.flac import write_flac
from . import soundfonts, speech, synthesis
from .clips import PIECE, clips_of, load
from .fingerprint import SERIES
from .packages import Packages, safe_name
from .sampled import SampledSource, phrases
from .series import series

log = logging.getLogger(__name__)


class SoundWriter:
    """Writes clips under `folder`/sounds and collects their rows of the manifest.

    Args:
        folder: the output folder.
        concepts: the table of concepts.
    """

    def __init__(self, folder: Path, concepts: dict[str, dict]) -> None:
        self.folder, self.concepts = folder, concepts
        self.rows: list[dict] = []
        self._taken: set[str] = set()

    def add(self, concept: str, source: str, name: str, waveform: Tensor, **fields: object) -> int:
        """Cut a sound into clips, write them, and note them; how many there are."""
        # rendered phrases stay whole
        piece = PIECE if fields["synthesised"] else self.concepts[concept].get("piece", PIECE)
        cut = clips_of(waveform, longest=1.6 * piece, piece=piece)
        for index, (start, clip) in enumerate(cut):
            stem = f"sounds/{concept}/{source}/{name}" + (f"-{index}" if len(cut) > 1 else "")
            audio, again = f"{stem}.flac", 2
            while audio in self._taken:
                audio, again = f"{stem}_{again}.flac", again + 1
            self._taken.add(audio)
            write_flac(self.folder / audio, clip)
            self.rows.append(
                {
                    "audio": audio,
                    "concept": concept,
                    "source": source,
                    "seconds": round(len(clip) / SAMPLE_RATE, 3),
                    "offset": round(start, 3),
                    **fields,
                }
            )
        if not cut:
            log.warning("%s: %s of %s is silent or too short", concept, name, source)
        return len(cut)


def recorded(writer: SoundWriter, packages: Packages, name: str, entry: dict) -> None:
    """The recordings of one Debian package.

    Raises:
        FileNotFoundError: the package, or a file that the table names, is not there.
        ValueError: a file that the table names is not decodable.
    """
    wanted = {concept: patterns for concept, patterns in entry["sounds"].items() if concept in writer.concepts}
    packages.files(name, entry["root"], " ".join(wanted.values()))  # unpacks all at once
    for concept, patterns in wanted.items():
        for member, path in packages.files(name, entry["root"], patterns).items():
            writer.add(
                concept,
                name,
                safe_name(member),
                load(path),
                package=name,
                version=packages.version(name),
                file=member,
                synthesised=False,
            )


def licence_of(entry: dict, member: str) -> str:
    """The licence of a file of a package: the package's, unless one of its `licences` has a pattern for it."""
    path = member.removeprefix(entry["root"])
    for licence, patterns in entry.get("licences", {}).items():
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns.split()):
            return licence
    return entry["licence"]


def rendered(writer: SoundWriter, packages: Packages, font: soundfonts.SoundFont, count: int) -> None:
    """`count` phrases of every instrument of the table, from one soundfont."""
    path = packages.unpacked(font.package, [font.file]) / font.file
    parts = soundfonts.parts_for(font, writer.concepts, count, soundfonts.presets(path))
    for part, waveform in soundfonts.render(packages, font, parts, writer.folder / "work"):
        program = "drums" if part.program is None else f"program {part.program}"
        writer.add(
            part.concept,
            font.package,
            f"{part.number:03d}",
            waveform,
            package=font.package,
            version=packages.version(font.package),
            file=f"{font.file} ({program})",
            licence=font.licence,
            synthesised=True,
        )


def sampled(writer: SoundWriter, packages: Packages, source: SampledSource, count: int) -> None:
    """`count` phrases of every instrument whose notes a package holds."""
    version = (packages.version if source.registry == "debian" else packages.npm_version)(source.package)
    for concept, number, name, waveform in phrases(packages, source, writer.concepts, count):
        writer.add(
            concept,
            safe_name(source.package),
            f"{number:03d}",
            waveform,
            package=source.package,
            version=version,
            file=name,
            licence=source.licence,
            synthesised=True,
        )


def generated(writer: SoundWriter, count: int) -> None:
    """`count` sounds for every concept that has a generator (`extra`), permissive like this project."""
    for concept, entry in writer.concepts.items():
        kind = entry.get("extra")
        if kind is None:
            continue
        for number in range(count):
            if kind == "speech":
                source, waveform = "espeak-ng", speech.speak(number, writer.folder / "work")
            else:
                source, waveform = "synthesis", synthesis.make(kind, number)
            file, licence = f"{kind} {number}", "Apache-2.0"
            fields = {"package": source, "version": "", "file": file, "licence": licence, "synthesised": True}
            writer.add(concept, source, f"{number:03d}", waveform, **fields)


def strung(writer: SoundWriter, rows: list[dict], count: int) -> None:
    """`count` series of single recorded sounds for every package that a concept's `series` names.

    Args:
        rows: of the recordings.
    """
    for concept, entry in writer.concepts.items():
        for package, name, waveform in series(rows, concept, entry, writer.folder, count) if "series" in entry else ():
            mine = next(row for row in rows if row["source"] == package)
            fields = {"package": package, "version": mine["version"], "file": SERIES, "synthesised": True}
            writer.add(concept, package, name, waveform, **fields)


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path: Path) -> list[dict]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
