"""The list of the clips that a run could not use, which also stops a run that has too many of them."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path


class SkipLog:
    """The list of bad clips of a run, each once, in `skipped.csv`; stops a run that has too many of them.

    Lives in the training process and sees every batch. Further ranks write `skipped.rank1.csv` and so on, which
    `merge` of rank 0 takes in. A file that exists is gone on with.
    """

    MIN_TRIED = 20  # clips before their share says anything

    def __init__(self, path: str | os.PathLike[str], *, max_bad_share: float = 0.05, rank: int = 0) -> None:
        self._main = Path(path)
        self.path = self._main if rank == 0 else self._rank_path(rank)
        self.max_bad_share = max_bad_share
        self.tried = self.bad = 0  # of this process, counted each time
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.reasons = _read_reasons(self.path)  # of each bad clip, by its key
        if not self.reasons:
            with open(self.path, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerow(("key", "reason"))

    def update(self, batch: dict) -> dict:
        """Count a batch of `collate` and return it without its tried and skipped.

        Raises:
            ValueError: more clips are bad than allowed, beyond what chance would do to the first few (two
                standard deviations).
        """
        tried, skipped = batch.pop("tried", 0), batch.pop("skipped", [])
        self.tried += tried
        self.bad += len(skipped)
        self._write(skipped)
        allowed = self.max_bad_share * self.tried
        if self.tried >= self.MIN_TRIED and self.bad > allowed + 2 * math.sqrt(allowed):
            self._stop()
        return batch

    def finish(self) -> None:
        """At the end of a pass over the data.

        Raises:
            ValueError: more clips are bad than allowed (of at least 20), or all.
        """
        enough = self.tried >= self.MIN_TRIED or self.bad == self.tried
        if enough and self.bad > self.max_bad_share * self.tried:
            self._stop()

    def merge(self) -> None:
        """On rank 0, when all ranks are done: take their lists in, and those of more ranks before."""
        for path in sorted(self._main.parent.glob(f"{self._main.stem}.rank*{self._main.suffix}")):
            self._write(list(_read_reasons(path).items()))
            path.unlink(missing_ok=True)

    def _rank_path(self, rank: int) -> Path:
        return self._main.with_name(f"{self._main.stem}.rank{rank}{self._main.suffix}")

    def _write(self, skipped: Sequence[tuple[str, str]]) -> None:
        new = {key: reason for key, reason in skipped if key not in self.reasons}
        self.reasons |= new
        if new:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(new.items())

    def _stop(self) -> None:
        first = "; ".join(f"{key}: {reason}" for key, reason in list(self.reasons.items())[:3])
        raise ValueError(
            f"{self.bad} of {self.tried} clips tried ({self.bad / self.tried:.0%}) are bad, more than max_bad_share"
            f" {self.max_bad_share:.0%}; all are listed in {self.path}; first: {first}"
        )


def _read_reasons(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {row["key"]: row["reason"] for row in csv.DictReader(file) if row.get("key")}
