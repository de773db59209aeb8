"""The pictures as tensors, single and in pairs, with what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .pictures import SIZE
from .sounds import read_jsonl


@dataclass(frozen=True)
class Pictures:
    """N pictures of `SIZE` x `SIZE` on white."""

    pixels: Tensor  # [N, 3, SIZE, SIZE] float32 in -1..1
    concepts: list[str]  # N
    styles: list[str]  # N
    roles: list[str]  # N: "draw", "judge" or "unseen", see pictures.py

    def where(self, *, roles: Sequence[str], concepts: Sequence[str] | None = None) -> Pictures:
        """Those of these roles and concepts; None = all."""
        kept = [
            i
            for i, (role, concept) in enumerate(zip(self.roles, self.concepts, strict=True))
            if role in roles and (concepts is None or concept in concepts)
        ]
        lists = ([values[i] for i in kept] for values in (self.concepts, self.styles, self.roles))
        return Pictures(self.pixels[kept], *lists)


def load_pictures(data: Path) -> Pictures:
    """All pictures of a data folder, as its `pictures.jsonl` lists them."""
    rows = read_jsonl(data / "pictures.jsonl")
    pixels = torch.stack([_read(data / row["picture"]) for row in rows])
    return Pictures(pixels, *([row[name] for row in rows] for name in ("concept", "style", "role")))


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two pictures in one, each at half its size, on white: [B, 3, S, S] twice -> [B, 3, S, S]."""
    size = left.shape[-1]
    canvas = torch.ones_like(left)
    half, top = size // 2, size // 4
    for place, picture in ((0, left), (half, right)):
        small = F.interpolate(picture, size=(half, half), mode="area")
        canvas[..., top : top + half, place : place + half] = small
    return canvas


def jitter(pictures: Tensor, generator: torch.Generator, *, scale: float, shift: float, turn: float) -> Tensor:
    """Each picture a little larger or smaller, moved and turned, white coming in: [B, 3, S, S].

    Args:
        scale: by at most this share. shift: by at most this share of the side. turn: by at most this many radians.
    """
    draws = 2 * torch.rand(4, len(pictures), generator=generator) - 1
    zoom, angle = 1 + scale * draws[0], turn * draws[1]
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    matrix = torch.stack(
        [torch.stack([cos, -sin, 2 * shift * draws[2]], 1), torch.stack([sin, cos, 2 * shift * draws[3]], 1)], 1
    )
    grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures - 1, grid, align_corners=False) + 1  # beyond the border lies 0: white


def _read(path: Path) -> Tensor:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)
