"""The UNet of `mini`: Stable Diffusion 1.x's kind and noise schedule, made small; it learns v-prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audio2img_core.targets import get_target

from .captions import Captions
from .images import side_by_side
from .loop import train

CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    # Multiples of 32 and of the first: ComfyUI's normalisation has 32 groups, and its widths are whole multiples.
    "block_out_channels": (128, 128),
    # Attention at 8 x 8 only: at 16 x 16 it would take more than half of the time.
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": None,
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": get_target("mini").width,
    "attention_head_dim": 4,  # heads, as in Stable Diffusion 1.x, whatever the name says
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}
_EMPTY_SHARE = 0.1  # of prompts that are left out, for classifier-free guidance
Said = list[tuple[str, list[int], int]]
"""Texts, the numbers of the concepts that they name, and the styles."""
Prompts = Callable[[Said, torch.Generator], Tensor]


@torch.no_grad()
def encode_pictures(autoencoder: Any, pictures: Tensor) -> Tensor:
    """Latents of mean 0 and deviation 1: [N, 3, 128, 128] -> [N, 4, 16, 16]."""
    means = [autoencoder.encode(part).latents for part in pictures.split(32)]
    return torch.cat(means) * autoencoder.config.scaling_factor


class Library:
    """Latents of what a caption shows: of every picture, and of pairs, which are encoded when they are first drawn."""

    def __init__(self, autoencoder: Any, pictures: Tensor):
        """pictures [C, S, 3, H, W] of every concept in every style."""
        self.autoencoder, self.pictures = autoencoder, pictures
        self.single = encode_pictures(autoencoder, pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
        self.pairs: dict[tuple[int, int, int], Tensor] = {}

    def latents(self, said: Said) -> Tensor:
        """[B, 4, 16, 16] of (text, concepts, style)."""
        return torch.stack([self._one(shown, style) for _, shown, style in said])

    def _one(self, shown: list[int], style: int) -> Tensor:
        if len(shown) == 1:
            return self.single[shown[0], style]
        left, right = shown
        key = (left, right, style)
        if key not in self.pairs:
            halves = [self.pictures[concept, style][None] for concept in shown]
            self.pairs[key] = encode_pictures(self.autoencoder, side_by_side(*halves))[0].half()
        return self.pairs[key].float()


def train_unet(
    library: Library,
    captions: Captions,
    prompts: Prompts,
    folder: Path,
    *,
    steps: int,
    batch_size: int = 32,
    draw: Callable[[torch.Generator, int], Said] | None = None,
    start: Any = None,
    learning_rate: float = 1e-3,
) -> Any:
    """Train a diffusers `UNet2DConditionModel` on pictures with the tokens that say what they show.

    Args:
        library: the latents.
        captions: what is said of them.
        prompts: (what is said, generator) -> tokens [B, 77, D], "" for the empty prompt.
        draw: (generator, count) -> what is said in a batch; None = `captions.draw`.
        start: a UNet to go on with; None = a new one.
    """
    from diffusers import DDPMScheduler, UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**CONFIG) if start is None else copy.deepcopy(start)
    schedule = DDPMScheduler(**SCHEDULE)

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        said = (draw or captions.draw)(generator, batch_size)
        clean = library.latents(said)
        empty = torch.rand(batch_size, generator=generator) < _EMPTY_SHARE
        tokens = prompts(
            [("" if e else text, shown, style) for e, (text, shown, style) in zip(empty, said, strict=True)], generator
        )
        noise = torch.randn(clean.shape, generator=generator)
        # One draw from each of as many equal parts of the schedule: less noise in the loss than from free draws.
        parts = (
            torch.randperm(batch_size, generator=generator) + torch.rand(batch_size, generator=generator)
        ) / batch_size
        times = (parts * SCHEDULE["num_train_timesteps"]).long()
        noisy, target = schedule.add_noise(clean, noise, times), schedule.get_velocity(clean, noise, times)
        with torch.autocast("cpu", torch.bfloat16):
            drawn = unet(noisy, times, tokens).sample
        error = F.mse_loss(drawn.float(), target)
        return {"loss": error}

    settings = {**CONFIG, **captions.settings(), "batch_size": batch_size}
    return train(
        folder.name, unet, loss, folder, steps=steps, learning_rate=learning_rate, ema_decay=0.999, settings=settings
    )
