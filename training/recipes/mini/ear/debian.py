"""Recordings of Debian's packages for the store, as `recordings.yaml` lists them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from audio2img_core import load_audio

from ..packages import Packages, run
from ..sounds import licence_of
from ..table import recordings
from .kinds import canonical
from .teacher import RATE

log = logging.getLogger(__name__)
SKIPPED = {"openclonk-data", "sonic-pi-samples"}
"""Packages whose sounds come from their repository as well, with a source each."""
LONGEST = 30.0  # seconds of one file


def recorded(packages: Packages, *, largest: float, have: set[str]) -> Iterator[tuple[dict, Tensor]]:
    """Rows for a store with their sounds [T], of packages of at most `largest` MB; what cannot be had is skipped.

    Args:
        have: ids that are not read again.
    """
    for name, entry in recordings().items():
        if name in SKIPPED or not 0 < size_of(name) <= largest:
            continue
        for concept, patterns in entry["sounds"].items():
            kind = canonical().get(concept)
            if kind is None:
                continue
            try:
                files = packages.files(name, entry["root"], patterns)
            except FileNotFoundError as error:
                log.warning("%s", error)
                continue
            for member, path in files.items():
                if f"{name}/{member}" in have:
                    continue
                try:
                    waveform, _ = load_audio(path, duration=LONGEST, sample_rate=RATE)
                except ValueError as error:
                    log.warning("%s", error)
                    continue
                row = {
                    "id": f"{name}/{member}",
                    "kind": kind,
                    "licence": licence_of(entry, member),
                    "source": name,
                    "package": name,
                    "version": packages.version(name),
                    "path": member,
                }
                yield row, torch.as_tensor(waveform).mean(0)


def size_of(name: str) -> float:
    """The size of a Debian package in MB; 0 where apt does not know it."""
    try:
        text = run(["apt-cache", "show", "--no-all-versions", name], what=name)
    except FileNotFoundError:
        return 0.0
    found = re.search(r"^Size: (\d+)", text, re.MULTILINE)
    return int(found[1]) / 1e6 if found else 0.0
