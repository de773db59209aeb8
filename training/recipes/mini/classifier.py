"""The judge of pictures: a small convolutional network that names the concept, in styles that are drawn and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .images import Pictures, jitter
from .loop import train

SIDE = 64  # pixels that it looks at


class Classifier(nn.Module):
    """[B, 3, H, W] in -1..1 -> logits [B, C]; any size, seen at `SIDE` x `SIDE`."""

    def __init__(self, concepts: int, width: int = 48):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1)]
        channels = width
        for out in (width, 2 * width, 3 * width, 4 * width):
            layers += [_Block(channels, out), nn.AvgPool2d(2)]
            channels = out
        self.body = nn.Sequential(*layers, _Block(channels, channels))
        self.drop, self.name = nn.Dropout(0.3), nn.Linear(2 * channels, concepts)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.body(F.interpolate(pictures, size=(SIDE, SIDE), mode="area"))
        return self.name(self.drop(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)))


class _Block(nn.Module):
    def __init__(self, channels: int, out: int):
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, 1, 1),
            nn.GroupNorm(8, out), nn.SiLU(), nn.Conv2d(out, out, 3, 1, 1),
        )  # fmt: skip
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.inner(x)


@torch.no_grad()
def name_pictures(classifier: Classifier, images: Sequence[Image.Image]) -> list[int]:
    """The number of the concept that the classifier sees in each picture."""
    stacked = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    pixels = torch.from_numpy(stacked / 127.5 - 1).permute(0, 3, 1, 2)
    return [int(i) for part in pixels.split(64) for i in classifier(part).argmax(1)]


def train_classifier(
    pictures: Pictures, concepts: list[str], folder: Path, *, steps: int, batch_size: int = 64
) -> Classifier:
    """Train on every picture of these; they must not hold the style that it is tested on."""
    torch.manual_seed(0)
    model = Classifier(len(concepts))
    rows = torch.tensor([concepts.index(name) for name in pictures.concepts])

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        chosen = torch.randint(len(rows), (batch_size,), generator=generator)
        seen = disturb(pictures.pixels[chosen], generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(seen).float()
        error = F.cross_entropy(logits, rows[chosen], label_smoothing=0.1)
        right = (logits.argmax(1) == rows[chosen]).float().mean()
        return {"loss": error, "right": right.detach()}

    return train(
        "classifier",
        model,
        loss,
        folder,
        steps=steps,
        learning_rate=2e-3,
        ema_decay=0.998,
        weight_decay=0.05,
        settings={"concepts": concepts},
    )


def disturb(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Other sizes, places, turns, colours, contrasts, blurs and patches: what differs from style to style."""
    count = len(pictures)
    x = jitter(pictures, generator, scale=0.3, shift=0.12, turn=0.35)
    mirrored = torch.rand(count, generator=generator) < 0.5
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    draws = torch.rand(5, count, 1, 1, 1, generator=generator)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (0.2 + 1.6 * draws[0])  # saturation
    mixing = torch.eye(3) + 0.25 * torch.randn(count, 3, 3, generator=generator)  # hue
    x = torch.einsum("bij,bjhw->bihw", mixing, x - 1) + 1  # white stays
    x = (x - 1) * (0.5 + draws[1]) + 1  # contrast
    blurred = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)
    x = torch.where(draws[2] < 0.4, blurred, x)
    x = x + 0.15 * draws[3] * torch.randn(x.shape, generator=generator)
    size = x.shape[-1]
    corner = torch.randint(size, (2, count, 1, 1), generator=generator)
    place = torch.arange(size)
    inside = ((place[None, :, None] - corner[0]).abs() < size // 8) & (
        (place[None, None] - corner[1]).abs() < size // 8
    )
    patched = inside[:, None] & (draws[4] < 0.4)
    return x.masked_fill(patched, 1.0).clamp(-1, 1)
