"""A small diffusion model of diffusers as ComfyUI's own MODEL and VAE: the same weights under ComfyUI's names.

Beside `host.py` the one file that touches `comfy`.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.taesd.taesd
import comfy.utils
import torch

PREDICTIONS = {
    "epsilon": comfy.model_base.ModelType.EPS,
    "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
}
_NO_MIDDLE = -2  # ComfyUI's transformer_depth_middle of a UNet without a middle block


def to_model(unet: Any, scheduler: Any) -> Any:
    """MODEL of a `UNet2DConditionModel` of Stable Diffusion 1.x's kind, any size.

    Args:
        unet: of diffusers. scheduler: its scheduler; the noise schedule must be Stable Diffusion's.

    Raises:
        ValueError: another prediction type or noise schedule, or layers that ComfyUI has no place for.
    """
    said = scheduler.config
    schedule = (said.num_train_timesteps, said.beta_start, said.beta_end, said.beta_schedule)
    if said.prediction_type not in PREDICTIONS or schedule != (1000, 0.00085, 0.012, "scaled_linear"):
        raise ValueError(
            f"prediction type {said.prediction_type!r} with the schedule {schedule} is not Stable Diffusion's: "
            f"{' or '.join(PREDICTIONS)} with (1000, 0.00085, 0.012, 'scaled_linear')"
        )
    c = unet.config
    if any(width % c.block_out_channels[0] for width in c.block_out_channels) or c.transformer_layers_per_block != 1:
        raise ValueError(
            f"widths {list(c.block_out_channels)} with {c.transformer_layers_per_block} transformer layers a block: "
            "ComfyUI takes whole multiples of the first width, with 1"
        )
    config = unet_config(unet)
    family = comfy.supported_models.SD15(config)
    heads = c.num_attention_heads or c.attention_head_dim
    family.unet_config |= {"num_heads": heads, "num_head_channels": -1}  # the family fixes them for 1.x's size
    family.model_type = lambda *_, **__: PREDICTIONS[said.prediction_type]
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(device=device, model_params=unet.num_parameters())
    family.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device))
    names = comfy.utils.unet_to_diffusers(config)
    weights = unet.state_dict()
    if missing := sorted(set(weights) - set(names)):
        raise ValueError(f"ComfyUI has no place for {', '.join(missing[:3])}")
    model = family.get_model({}, "", device="cpu")
    model.diffusion_model.load_state_dict({names[name]: tensor for name, tensor in weights.items()}, strict=True)
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


def unet_config(unet: Any) -> dict[str, Any]:
    """ComfyUI's description of a `UNet2DConditionModel` whose widths are whole multiples of the first."""
    c = unet.config
    levels = len(c.block_out_channels)
    attends = [int(kind.startswith("CrossAttn")) for kind in c.down_block_types]
    return {
        "image_size": 32,
        "in_channels": c.in_channels,
        "out_channels": c.out_channels,
        "model_channels": c.block_out_channels[0],
        "channel_mult": [channels // c.block_out_channels[0] for channels in c.block_out_channels],
        "num_res_blocks": [c.layers_per_block] * levels,
        "transformer_depth": [depth for depth in attends for _ in range(c.layers_per_block)],
        "transformer_depth_output": [depth for depth in attends for _ in range(c.layers_per_block + 1)],
        "transformer_depth_middle": _NO_MIDDLE if c.mid_block_type is None else 1,
        "context_dim": c.cross_attention_dim,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": c.use_linear_projection,
        "legacy": False,
        "use_temporal_attention": False,
    }


def to_vae(autoencoder: Any) -> Any:
    """VAE of an `AutoencoderTiny` with TAESD's layers, as wide as they are or narrower.

    Narrower layers get channels of zeros: without normalisation they change nothing.

    Raises:
        ValueError: no such autoencoder, other layers than TAESD's, wider ones, or scaled latents.
    """
    if type(autoencoder).__name__ != "AutoencoderTiny" or autoencoder.config.scaling_factor != 1:
        raise ValueError(f"not an AutoencoderTiny with a scaling factor of 1: {type(autoencoder).__name__}")
    weights = {}
    for name, tensor in autoencoder.state_dict().items():
        half, _, place, rest = name.split(".", 3)
        # ComfyUI counts the decoder's clamp as a layer.
        weights[f"taesd_{half}.{int(place) + (half == 'decoder')}.{rest}"] = tensor
    ours = comfy.taesd.taesd.TAESD(latent_channels=autoencoder.config.latent_channels).state_dict()
    full = {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in ours.items()}
    full["vae_scale"] = torch.tensor(comfy.supported_models.SD15.latent_format().scale_factor)
    for name, tensor in weights.items():
        if name not in full or any(n > most for n, most in zip(tensor.shape, full[name].shape, strict=True)):
            raise ValueError(f"{name} of the autoencoder does not fit into TAESD, the one small autoencoder of ComfyUI")
        full[name][tuple(slice(n) for n in tensor.shape)] = tensor
    if missing := sorted(set(full) - set(weights) - {"vae_scale", "vae_shift"}):
        raise ValueError(f"the autoencoder has no {missing[0]}: its layers are not TAESD's")
    vae = comfy.sd.VAE(sd=full)
    vae.throw_exception_if_invalid()
    return vae
