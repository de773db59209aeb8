"""A small diffusers pipeline as one file in the original Stable Diffusion layout, as checkpoints are shared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_single_file(diffusion: Any, path: Path) -> None:
    """Write a `StableDiffusionPipeline` of the 1.x kind to `path`."""
    weights: dict[str, Tensor] = {}
    layers = diffusion.unet.config.layers_per_block
    for name, tensor in diffusion.unet.state_dict().items():
        weights[f"model.diffusion_model.{unet_name(name, layers, diffusion.unet)}"] = tensor
    levels = len(diffusion.vae.config.block_out_channels)
    for name, tensor in diffusion.vae.state_dict().items():
        new = vae_name(name, levels)
        if ".attn_1." in new and new.endswith("weight") and tensor.ndim == 2:
            tensor = tensor[..., None, None]
        weights[f"first_stage_model.{new}"] = tensor
    for name, tensor in diffusion.text_encoder.state_dict().items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        weights[f"cond_stage_model.transformer.{name}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


def unet_name(name: str, layers: int, unet: Any) -> str:
    """The original name of a weight of `UNet2DConditionModel`."""
    fixed = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for ours, theirs in fixed.items():
        if name.startswith(f"{ours}."):
            return _renamed(theirs + name[len(ours) :], _UNET_RESNET, "mid_block.resnets" in ours)
    side, block, kind, number, rest = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()
    block, number = int(block), int(number)
    if side == "down":
        place = f"input_blocks.{(layers + 1) * block + number + 1}"
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.op.{rest.removeprefix('conv.')}"
    else:
        place = f"output_blocks.{(layers + 1) * block + number}"
        if kind == "upsamplers":
            behind = 2 if unet.config.up_block_types[block].startswith("CrossAttn") else 1
            return f"output_blocks.{(layers + 1) * block + layers}.{behind}.{rest}"
    return _renamed(f"{place}.{0 if kind == 'resnets' else 1}.{rest}", _UNET_RESNET, kind == "resnets")


def vae_name(name: str, levels: int) -> str:
    """The original name of a weight of `AutoencoderKL`."""
    name = name.replace("conv_norm_out", "norm_out").replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    return _renamed(_renamed(name, _VAE_ATTENTION, "attn_1" in name), _VAE_RESNET, True)


def _renamed(name: str, names: dict[str, str], wanted: bool) -> str:
    for ours, theirs in names.items() if wanted else ():
        name = re.sub(rf"(^|\.){re.escape(ours)}\.", rf"\g<1>{theirs}.", name)
    return name
