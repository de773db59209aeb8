"""A run in few bytes: its averaged weights in float16, in files small enough to carry, without an optimizer."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_LARGEST = 14e6  # bytes of one file


def write_slim(model: nn.Module, folder: Path, facts: dict[str, int]) -> list[Path]:
    """Write a model's state as `weights-0.safetensors`, ...; the files.

    Args:
        facts: whole numbers that are kept with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("weights-*.safetensors"):
        old.unlink()
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in model.state_dict().items():
        half = tensor.detach().cpu().half().contiguous() if tensor.is_floating_point() else tensor.detach().cpu()
        if size + half.nbytes > _LARGEST and groups[-1]:
            groups.append({})
            size = 0
        groups[-1][name] = half.clone()
        size += half.nbytes
    paths = []
    for number, group in enumerate(groups):
        paths.append(folder / f"weights-{number}.safetensors")
        save_file(group, paths[-1], {name: str(value) for name, value in facts.items()})
    return paths


def read_slim(folder: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The state, floating numbers in float32, and the facts of what `write_slim` wrote.

    Raises:
        FileNotFoundError: there is no such file.
    """
    state: dict[str, Tensor] = {}
    facts: dict[str, int] = {}
    for path in sorted(folder.glob("weights-*.safetensors")):
        with safe_open(path, "pt") as file:
            facts |= {name: int(value) for name, value in file.metadata().items()}
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                state[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    if not state:
        raise FileNotFoundError(f"{folder}: no weights-0.safetensors; expected what --slim wrote")
    return state, facts
