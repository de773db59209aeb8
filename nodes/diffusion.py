"""A small diffusion model of diffusers as ComfyUI's own MODEL and VAE: the same weights under ComfyUI's names.

Beside `host.py` the one file that touches `comfy`.
"""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch

PREDICTIONS = {
    "epsilon": comfy.model_base.ModelType.EPS,
    "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
}
_SCALING = comfy.supported_models.SD15.latent_format().scale_factor
_NO_MIDDLE = -2  # ComfyUI's transformer_depth_middle of a UNet without a middle block


def to_model(unet: Any, scheduler: Any) -> Any:
    """MODEL of a `UNet2DConditionModel` of Stable Diffusion 1.x's kind, any size.

    Args:
        unet: of diffusers. scheduler: its scheduler; the noise schedule must be Stable Diffusion's.

    Raises:
        ValueError: another prediction type or noise schedule, or weights that ComfyUI has no place for.
    """
    said = scheduler.config
    schedule = (said.num_train_timesteps, said.beta_start, said.beta_end, said.beta_schedule)
    if said.prediction_type not in PREDICTIONS or schedule != (1000, 0.00085, 0.012, "scaled_linear"):
        raise ValueError(
            f"prediction type {said.prediction_type!r} with the schedule {schedule} is not Stable Diffusion's: "
            f"{' or '.join(PREDICTIONS)} with (1000, 0.00085, 0.012, 'scaled_linear')"
        )
    config = unet_config(unet)
    family = comfy.supported_models.SD15(config)
    heads = unet.config.num_attention_heads or unet.config.attention_head_dim
    family.unet_config |= {"num_heads": heads, "num_head_channels": -1}  # the family fixes them for 1.x's size
    family.model_type = lambda *_, **__: PREDICTIONS[said.prediction_type]
    device = comfy.model_management.get_torch_device()
    family.set_inference_dtype(
        comfy.model_management.unet_dtype(device=device, model_params=unet.num_parameters()), None
    )
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
    """VAE of an `AutoencoderKL` of four levels, any width.

    Raises:
        ValueError: latents of another scale than Stable Diffusion 1.x's, which ComfyUI takes for granted.
    """
    c = autoencoder.config
    if c.scaling_factor != _SCALING:
        raise ValueError(f"the autoencoder's scaling factor is {c.scaling_factor}, not Stable Diffusion's {_SCALING}")
    first = c.block_out_channels[0]
    shape = {
        "double_z": True,
        "z_channels": c.latent_channels,
        "resolution": 256,
        "in_channels": c.in_channels,
        "out_ch": c.out_channels,
        "ch": first,
        "ch_mult": [channels // first for channels in c.block_out_channels],
        "num_res_blocks": c.layers_per_block,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    weights = {name: tensor.to(torch.float32) for name, tensor in autoencoder.state_dict().items()}
    vae = comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": shape, "embed_dim": c.latent_channels}})
    vae.throw_exception_if_invalid()
    return vae
