"""Rows that come one batch after another and are wanted as one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 40_000_000  # bytes: glibc gives back to the system what is over 32 MB as soon as it is freed


class Rows:
    """Batches [n, ...] of rows, all in one at the end: not twice in memory meanwhile, as with `torch.cat`."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._batches: list[Tensor] = []  # since the last block

    def append(self, batch: Tensor) -> None:
        """Take [n, ...] rows."""
        self._batches.append(batch)
        if sum(rows.nbytes for rows in self._batches) >= _BLOCK:
            self._blocks.append(torch.cat(self._batches))
            self._batches.clear()

    def take(self) -> Tensor | None:
        """All rows in their order, or None where none came. They are no longer held here."""
        blocks = [*self._blocks, *self._batches]
        self._blocks.clear()
        self._batches.clear()
        if not blocks:
            return None
        rows = blocks[0].new_empty((sum(map(len, blocks)), *blocks[0].shape[1:]))
        blocks.reverse()
        done = 0
        while blocks:
            block = blocks.pop()
            rows[done : done + len(block)] = block
            done += len(block)
        return rows
