"""The instruments of General MIDI, rendered by fluidsynth from several soundfonts; each soundfont is one source."""

from __future__ import annotations

import logging
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from audio2img_core.audio.io import SAMPLE_RATE

from .clips import load
from .midi import midi_file, phrase
from .packages import Packages, run

log = logging.getLogger(__name__)
SLOT = 8.0  # seconds from one phrase to the next: the phrase, then time to ring out
RATE = 32_000  # Hz, of the rendering


@dataclass(frozen=True)
class SoundFont:
    """One soundfont: its Debian package, the file in it, its licence.

    Attributes:
        only: the concepts that it may play; None = all.
        without: programs that it may not play.
    """

    package: str
    file: str
    licence: str
    only: tuple[str, ...] | None = None
    without: tuple[int, ...] = ()


# Some share samples: MuseScore General with FluidR3 (as FluidR3 Mono does, which is left out), the Csound bank with
# TimGM6mb. GeneralUser GS, which is held out, has its own, but for the programs that it may not play here: their notes
# correlate with those of another soundfont.
SOUNDFONTS = (
    SoundFont("fluid-soundfont-gm", "usr/share/sounds/sf2/FluidR3_GM.sf2", "MIT"),
    SoundFont("musescore-general-soundfont", "usr/share/sounds/sf3/MuseScore_General_Full.sf3", "MIT"),
    SoundFont("timgm6mb-soundfont", "usr/share/sounds/sf2/TimGM6mb.sf2", "GPL-2.0"),
    SoundFont("csound-soundfont", "usr/share/sounds/sf2/sf_GMbank.sf2", "LGPL-2.1"),
    SoundFont(
        "minuet-data",
        "usr/share/minuet/soundfonts/GeneralUser-v1.47.sf2",
        "GeneralUser GS 1.47",
        without=(26, 42, 53),
    ),
    SoundFont("avldrums.lv2-soundfont", "usr/share/sounds/sf2/Red_Zeppelin_4_LV2.sf2", "GPL-2.0-or-later", ("drum",)),
)


@dataclass(frozen=True)
class Part:
    """One phrase to render: its concept, its number, program (None = percussion), keys, and way of playing."""

    concept: str
    number: int
    program: int | None
    keys: tuple[int, int]
    play: str


def presets(path: Path) -> set[tuple[int, int]]:
    """The (bank, program) pairs that a soundfont, .sf2 or .sf3, has; percussion is bank 128."""
    content = path.read_bytes()
    at = content.index(b"phdr", content.index(b"pdta"))  # sample data come before, and could hold any bytes
    (size,) = struct.unpack("<I", content[at + 4 : at + 8])
    rows = range(at + 8, at + 8 + size - 38, 38)  # the last record is only an end mark
    records = (struct.unpack("<HH", content[row + 20 : row + 24]) for row in rows)
    return {(bank, program) for program, bank in records}


def parts_for(font: SoundFont, concepts: dict[str, dict], count: int, have: set[tuple[int, int]]) -> list[Part]:
    """What to render from a soundfont: `count` phrases for each concept that it has an instrument for.

    Args:
        concepts: the concepts of the table; those without `gm` are skipped.
        have: (bank, program) pairs of the soundfont.
    """
    parts = []
    for concept, entry in concepts.items():
        gm = entry.get("gm")
        if not gm or (font.only is not None and concept not in font.only):
            continue
        programs: list[int | None] = [
            number for number in gm.get("programs", ()) if (0, number) in have and number not in font.without
        ]
        if gm.get("drums"):
            # a soundfont of one drum kit may have it as an ordinary program
            programs = [None] if any(bank == 128 for bank, _ in have) else [0] if font.only else []
        if not programs:
            log.info("%s has no instrument for %s", font.package, concept)
            continue
        wanted = max(count // 5, 4) if gm["play"] == "effect" else count
        for number in range(wanted):
            parts.append(Part(concept, number, programs[number % len(programs)], tuple(gm["keys"]), gm["play"]))
    return parts


def render(packages: Packages, font: SoundFont, parts: list[Part], folder: Path) -> list[tuple[Part, Tensor]]:
    """Render the parts of one soundfont in one run of fluidsynth: each part with its waveform [T] at 16 kHz.

    The phrases depend on the concept, the number and the soundfont's name only, so a longer list keeps them.

    Raises:
        FileNotFoundError: fluidsynth is missing, or the package is.
    """
    path = packages.unpacked(font.package, [font.file]) / font.file
    folder.mkdir(parents=True, exist_ok=True)
    placed = []
    for index, part in enumerate(parts):
        rng = seeded(font.package, part.concept, part.number)
        seconds = float(rng.uniform(2.0, 5.0))
        placed.append((index * SLOT, part.program, phrase(part.play, part.keys, seconds, rng)))
    score, sound = folder / f"{font.package}.mid", folder / f"{font.package}.wav"
    score.write_bytes(midi_file(placed))
    command = ["fluidsynth", "-ni", "-q", "-g", "0.5", "-r", str(RATE), "-F", str(sound), str(path), str(score)]
    run(command, what=f"rendering {font.package}")
    whole = load(sound)
    sound.unlink()
    size = round(SLOT * SAMPLE_RATE)
    return [(part, whole[index * size : (index + 1) * size]) for index, part in enumerate(parts)]


def seeded(*names: object) -> np.random.Generator:
    """A random generator that depends on these names only."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, names)).encode()))
