"""The autoencoder of `mini`: a small AutoencoderKL of Stable Diffusion's kind, 128 x 128 pixels to 16 x 16 x 4."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .images import Pictures, jitter, side_by_side
from .loop import train

CONFIG = {
    "block_out_channels": (32, 64, 64, 96),  # multiples of 32, the number of groups that ComfyUI's normalisation has
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "latent_channels": 4,
    "sample_size": 128,
    "scaling_factor": 0.18215,  # that of Stable Diffusion 1.x: ComfyUI takes it for granted
}
_NOISE = 0.1  # standard deviations of the latents that the decoder learns to bear
_KL = 1e-4
_COARSE = 4  # pixels of a side of the fields whose colour counts
_CROP = 64  # pixels of a side of what most batches show: it costs a quarter, and edges are learned as well from it
_CROP_SHARE = 0.75  # of batches


def train_autoencoder(pictures: Pictures, folder: Path, *, steps: int, batch_size: int = 12):
    """Train on the pictures that are drawn from, single and in pairs; a diffusers `AutoencoderKL`.

    L1 of the pixels and of their differences to their neighbours (edges), squared error of small fields (colour), and a
    slight pull to unit Gaussians; the decoder sees the latents with noise on them. At the end the latents are shifted
    and scaled, within the weights, to mean 0 and deviation 1 per channel over the pictures, once the pipeline has
    multiplied them by `scaling_factor`.
    """
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(**CONFIG)

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        pixels = _batch(pictures, generator, batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            latents = posterior.mean.float()
            noisy = latents + _NOISE * latents.std() * torch.randn(latents.shape, generator=generator)
            drawn = model.decode(noisy).sample.float()
        pixel = F.l1_loss(drawn, pixels)
        edges = sum(F.l1_loss(drawn.diff(dim=d), pixels.diff(dim=d)) for d in (2, 3))
        # Absolute errors alone leave the colours grey for a thousand steps.
        colour = F.mse_loss(*(F.avg_pool2d(x, _COARSE) for x in (drawn, pixels)))
        kl = _KL * latents.square().mean()
        parts = {"pixel": pixel, "edges": edges, "colour": colour, "kl": kl}
        return {"loss": sum(parts.values())} | {name: part.detach() for name, part in parts.items()}

    train("autoencoder", model, loss, folder, steps=steps, learning_rate=1.5e-3, ema_decay=0.995)
    _standardise(model, pictures.pixels)
    return model


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


@torch.no_grad()
def _standardise(model, pixels: Tensor) -> None:
    """Fold a shift and a scale of each latent channel into the 1 x 1 convolutions on both sides of the latents."""
    latents = torch.cat([model.encode(part).latent_dist.mean for part in pixels.split(32)])
    mean = latents.mean((0, 2, 3))
    scale = latents.std((0, 2, 3)) * model.config.scaling_factor  # latents / scale are what the pipeline scales to 1
    into, out = model.quant_conv, model.post_quant_conv
    # encode: (z - mean) / scale for the means of the posterior, log(1 / scale^2) more for its log variances.
    into.weight[:4] /= scale[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - mean) / scale
    into.bias[4:] -= 2 * scale.log()
    # decode: W (z * scale + mean) + b
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= scale[None, :, None, None]
