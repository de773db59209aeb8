"""Where models run and in which numbers."""

from __future__ import annotations

import os

import torch
from packaging.version import Version

from .mini import names as mini

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"


def resolve_device(device: torch.device | str | None) -> torch.device:
    """A device by name; None = the GPU where there is one, else the CPU.

    Raises:
        ValueError: no such device here; the message lists what there is.
    """
    here = ["cpu"]
    if torch.backends.mps.is_available():
        here.insert(0, "mps")
    here = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + here
    if device is None:
        return torch.device(here[0])
    try:
        resolved = torch.device(device)
        for known in map(torch.device, here):
            # A single device may be named with its number: distributed runs pass "cpu:0".
            if resolved.type == known.type and resolved.index in (None, known.index or 0):
                return resolved if known.index is not None else known
    except RuntimeError:
        pass
    raise ValueError(f"no device {str(device)!r} on this machine: choose one of {', '.join(here)}")


def resolve_dtype(dtype: torch.dtype | str, device: torch.device | None = None) -> torch.dtype:
    """A dtype by name, checked against the device that computes with it where one is given.

    Raises:
        ValueError: unknown name, or float16 on a CPU, where it is slow and overflows.
    """
    resolved = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in DTYPES.values():
        raise ValueError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    if resolved == torch.float16 and device is not None and device.type == "cpu":
        raise ValueError("float16 is for GPUs: choose float32 or bfloat16 on a CPU")
    return resolved


def encoder_dtype(
    device: torch.device, name: str | os.PathLike[str], dtype: torch.dtype | str | None = None
) -> torch.dtype | str:
    """What an encoder computes in: the dtype asked for; None = bfloat16 where the device multiplies it, else float32.

    A CPU without instructions for it (avx512_bf16, amx_bf16) would be slower than in float32, and so would "mini",
    which is too small to gain. "int8" is for the weights alone, see `AudioEncoder.from_pretrained`.

    Raises:
        ValueError: as `resolve_dtype`.
    """
    if dtype is not None:
        return INT8 if dtype == INT8 else resolve_dtype(dtype, device)
    if name == mini.NAME:
        return torch.float32
    if device.type == "cuda":
        # Not torch.cuda.is_bf16_supported(): it counts cards that only emulate it.
        able = torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if able else torch.float32
    if device.type == "cpu":
        able = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.4 does not tell
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.float32


def diffusion_dtype(device: torch.device, dtype: torch.dtype | str | None = None) -> torch.dtype:
    """What the diffusion model computes in: the dtype asked for; None = float16 on a CUDA GPU, else float32.

    Only encoders have "int8"; a diffusion model is then what it is by default.

    Raises:
        ValueError: as `resolve_dtype`.
    """
    if dtype not in (None, INT8):
        return resolve_dtype(dtype, device)
    return torch.float16 if device.type == "cuda" else torch.float32


def weights_in(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The keyword argument of diffusers' loaders for the dtype of the weights, whose name has changed in 0.40."""
    import diffusers

    return {"dtype" if Version(diffusers.__version__) >= Version("0.40.0") else "torch_dtype": dtype}
