"""Untrained encoders and diffusion models of a target: for tests, for sizing, and as the start of a training.

`tiny` is small in depth and channels but real in kind: the tokens have the target's width, and the diffusion model
is loaded, called and stored as its full-sized relatives are. `full` has the published sizes.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .conditioning.text import null_conditioning_of
from .encoder.config import AudioEncoderConfig
from .encoder.model import AudioEncoder
from .targets import PROMPT_TOKENS, get_target

SIZES = ("tiny", "full")


def make_encoder(target: str, *, size: str = "tiny", head: str = "query", seed: int = 0) -> AudioEncoder:
    """An untrained `AudioEncoder` for `target`, in evaluation mode; it carries no empty prompt yet.

    Args:
        target: a name of `targets.TARGETS`.
        size: "tiny" (well under a second to make) or "full" (the size of `facebook/w2v-bert-2.0`).
        head: "query" or "conv" (with the seed's adapter: kernel 3, stride 2, two layers, windows of 3.75 s).
        seed: of the random weights.

    Raises:
        ValueError: unknown target, size or head.
    """
    config = encoder_config(target, size=size, head=head)
    with _seeded(seed):
        return AudioEncoder(config).eval()


def encoder_config(target: str, *, size: str = "tiny", head: str = "query") -> AudioEncoderConfig:
    """The config that `make_encoder` builds from; args and errors as there."""
    _check_size(size)
    backbone: dict[str, Any] = {"num_adapter_layers": 2, "layerdrop": 0.0, "mask_time_prob": 0.0}
    inner: dict[str, Any] = {"kind": head}
    if size == "tiny":
        backbone |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        inner |= {"width": 32, "num_layers": 1, "num_heads": 4}
    window = {"seconds": 3.75} if head == "conv" else {"seconds": 10.0}
    return AudioEncoderConfig(
        backbone=backbone, head=inner, window=window, target=target, training={"steps": 0, "size": size}
    )


def make_diffusion(target: str, *, size: str = "tiny", seed: int = 0) -> Any:
    """An untrained diffusers pipeline of the target's family: `StableDiffusionPipeline` or its XL form.

    Its tokenizer knows bytes only: CLIP's vocabulary of merges is not shipped here.

    Raises:
        ValueError: unknown target or size.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    _check_size(size)
    get_target(target)
    with _seeded(seed):
        unet = UNet2DConditionModel(**_unet_config(target, size))
        vae = AutoencoderKL(**_vae_config(target, size))
        encoders = [cls(CLIPTextConfig(**config)).eval() for cls, config in _text_configs(target, size)]
    tokenizer = make_tokenizer(encoders[0].config.vocab_size)
    parts: dict[str, Any] = {
        "unet": unet.eval(),
        "vae": vae.eval(),
        "text_encoder": encoders[0],
        "tokenizer": tokenizer,
        "scheduler": _scheduler(target),
    }
    if target == "sdxl":
        return StableDiffusionXLPipeline(**parts, text_encoder_2=encoders[1], tokenizer_2=tokenizer)
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts)


def make_pair(target: str, *, size: str = "tiny", seed: int = 0) -> tuple[AudioEncoder, Any]:
    """An untrained encoder and diffusion pipeline that fit each other; the encoder carries its empty prompt."""
    encoder, diffusion = make_encoder(target, size=size, seed=seed), make_diffusion(target, size=size, seed=seed)
    null = null_conditioning_of(diffusion)
    encoder.set_teacher(null.tokens[0], null_pooled=None if null.pooled is None else null.pooled[0])
    return encoder, diffusion


def make_tokenizer(vocab_size: int) -> CLIPTokenizer:
    """A `CLIPTokenizer` of the 256 bytes, in and at the end of words, with CLIP's two special tokens last."""
    letters = _byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters]
    vocab = {token: i for i, token in enumerate(tokens)}
    vocab |= {"<|startoftext|>": vocab_size - 2, "<|endoftext|>": vocab_size - 1}
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        files[0].write_text(json.dumps(vocab), encoding="utf-8")
        files[1].write_text("#version: 0.2\n", encoding="utf-8")
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": PROMPT_TOKENS}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def _byte_letters() -> list[str]:
    """The letters that byte-level BPE writes the 256 bytes with (GPT-2): printable ones stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def _text_configs(target: str, size: str) -> list[tuple[type, dict[str, Any]]]:
    """Classes and configs of the text encoders: CLIP-L, OpenCLIP-H without its last layer, OpenCLIP-bigG."""
    clip_l = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    clip_l |= {"hidden_act": "quick_gelu", "projection_dim": 768}
    open_h = {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16, "intermediate_size": 4096}
    open_h |= {"hidden_act": "gelu", "projection_dim": 512}
    big_g = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120}
    big_g |= {"hidden_act": "gelu", "projection_dim": 1280}
    small = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
    configs = {
        "sd15": [(CLIPTextModel, clip_l)],
        "sd21": [(CLIPTextModel, open_h)],
        "sdxl": [(CLIPTextModel, clip_l), (CLIPTextModelWithProjection, big_g)],
        "mini": [(CLIPTextModel, small)],
    }[target]
    vocab = 49408 if size == "full" and target != "mini" else 514
    special = {"vocab_size": vocab, "bos_token_id": vocab - 2, "eos_token_id": vocab - 1, "pad_token_id": vocab - 1}
    shrink = {"num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4} if size == "tiny" else {}
    return [(cls, {**config, **special, **shrink}) for cls, config in configs]


def _unet_config(target: str, size: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "cross_attention_dim": get_target(target).width,
        "use_linear_projection": target in ("sd21", "sdxl"),
    }
    if target == "sdxl":
        # The time embedding also sees the pooled prompt and six numbers of size and crop.
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        config |= {"projection_class_embeddings_input_dim": 1280 + 6 * 256}
    if size == "tiny" or target == "mini":
        config |= {
            "sample_size": 16,
            "layers_per_block": 1,
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 8,
        }
    elif target == "sdxl":
        config |= {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
        }
    else:
        config |= {"sample_size": 64 if target == "sd15" else 96}
        config |= {"attention_head_dim": 8 if target == "sd15" else (5, 10, 20, 20)}
    return config


def _vae_config(target: str, size: str) -> dict[str, Any]:
    full = size == "full" and target != "mini"
    channels = (128, 256, 512, 512) if full else (8, 8, 16, 16)
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2 if full else 1,
        "norm_num_groups": 32 if full else 4,
        "latent_channels": 4,
        "sample_size": {"sd15": 512, "sd21": 768, "sdxl": 1024}[target] if full else 128,
        "scaling_factor": 0.13025 if target == "sdxl" else 0.18215,
    }


def _scheduler(target: str) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler

    common = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    if target == "sdxl":
        return EulerDiscreteScheduler(**common, timestep_spacing="leading")
    if target == "sd21":
        return DDIMScheduler(**common, prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False)
    return PNDMScheduler(**common, skip_prk_steps=True, set_alpha_to_one=False)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers from `seed` inside, the global generator untouched outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _check_size(size: str) -> None:
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: choose one of {', '.join(SIZES)}")
