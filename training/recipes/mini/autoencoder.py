"""The autoencoder of `mini`: a diffusers `AutoencoderTiny`, 128 x 128 pixels to 16 x 16 x 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .images import Pictures, jitter, side_by_side
from .loop import train

# No normalisation: ComfyUI's for an AutoencoderKL has 32 groups, one channel each in a net as narrow as this, and such
# a net cannot keep colours. TAESD's layers, only narrower: ComfyUI loads them with zeros for the missing channels.
CONFIG = {
    "encoder_block_out_channels": (32,) * 4,
    "decoder_block_out_channels": (48,) * 4,
    "latent_channels": 4,
}
_NOISE = 0.1  # on the latents that the decoder learns to bear, whose deviation is about 1
_CROP = 64  # pixels of a side of what most batches show: it costs a quarter, and edges are learned as well from it
_CROP_SHARE = 0.75  # of batches


def train_autoencoder(pictures: Pictures, folder: Path, *, steps: int, batch_size: int = 16):
    """Train on the pictures that are drawn from, single and in pairs; a diffusers `AutoencoderTiny`.

    L1 of the pixels and of their differences to their neighbours (edges), squared error of the pixels (colours), and a
    pull of each latent channel to mean 0 and deviation 1, as the noise schedule of Stable Diffusion expects. The
    decoder sees the latents with noise on them.
    """
    from diffusers import AutoencoderTiny  # pyright: ignore[reportPrivateImportUsage]

    torch.manual_seed(0)
    model: Any = AutoencoderTiny(**CONFIG)
    model.to(memory_format=torch.channels_last)  # a quarter less time on a CPU

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        pixels = _batch(pictures, generator, batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(pixels).latents.float()
            noisy = latents + _NOISE * torch.randn(latents.shape, generator=generator)
            drawn = model.decode(noisy).sample.float()
        edges = [F.l1_loss(drawn.diff(dim=d), pixels.diff(dim=d)) for d in (2, 3)]
        parts = {
            "pixel": F.l1_loss(drawn, pixels),
            "edges": edges[0] + edges[1],
            "colour": F.mse_loss(drawn, pixels),
            "moments": 0.05 * _moments(latents),
        }
        total = parts["pixel"] + parts["edges"] + parts["colour"] + parts["moments"]
        return {"loss": total} | {name: part.detach() for name, part in parts.items()}

    settings = {**CONFIG, "pictures": len(pictures.pixels), "batch_size": batch_size}
    return train(
        "autoencoder", model, loss, folder, steps=steps, learning_rate=1e-3, ema_decay=0.995, settings=settings
    )


def _batch(pictures: Pictures, generator: torch.Generator, size: int) -> Tensor:
    rows = torch.randint(len(pictures.pixels), (size,), generator=generator)
    pixels = pictures.pixels[rows]
    pairs = size // 4
    pixels = torch.cat([side_by_side(pixels[:pairs], pixels[-pairs:]), pixels[pairs:]])
    pixels = jitter(pixels, generator, scale=0.15, shift=0.1, turn=0.1).clamp(-1, 1)
    if torch.rand((), generator=generator) < _CROP_SHARE:
        top, left = torch.randint(pixels.shape[-1] - _CROP + 1, (2,), generator=generator).tolist()
        pixels = pixels[..., top : top + _CROP, left : left + _CROP]
    return pixels


def _moments(latents: Tensor) -> Tensor:
    """How far each channel's mean and deviation over the batch are from 0 and 1, squared."""
    channels = latents.transpose(0, 1).flatten(1)
    return (channels.mean(1).square() + (channels.std(1) - 1).square()).mean()
