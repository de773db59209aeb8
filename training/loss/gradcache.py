"""Large batches in the memory of one chunk (GradCache, arXiv:2101.06983)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def chunked(forward: Callable[..., Any], inputs: Mapping[str, Tensor | None], chunk_size: int) -> Any:
    """`forward(**inputs)`, computed a chunk of rows at a time; between the passes only its outputs are kept.

    A contrastive loss needs the embeddings of the whole batch at once, but not what the encoder computed on the way.
    Each chunk is a checkpoint: the backward pass computes it once more, with the same random numbers (torch's on all
    devices of the inputs, NumPy's and Python's: SpecAugment in transformers draws from NumPy), and frees it before
    the next. Time: one more forward pass. The gradients are those of the plain forward pass; rows must not depend on
    one another (as with BatchNorm) and `forward` must have no other state.

    Under DistributedDataParallel the chunks belong inside of the wrapped module's forward, which DDP expects to be
    called once for each backward pass.

    Args:
        forward: called as forward(**chunk); returns a tensor, or tuples, lists, mappings or `ModelOutput` of them.
        inputs: tensors [B, ...] of equal B; None is handed through.
        chunk_size: rows of a chunk, at least 1; the last one may be smaller.

    Returns:
        What `forward` returns, with tensors joined along their first dimension. Those without one, such as a learned
        scale that is handed through, and other values are the first chunk's.

    Raises:
        ValueError: no tensor in inputs, tensors of different or no rows, chunk_size below 1.
    """
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be a whole number of at least 1, not {chunk_size!r}")
    sizes = {name: len(tensor) for name, tensor in inputs.items() if tensor is not None}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(f"inputs need the same number of rows, at least 1, not {sizes}")
    size = next(iter(sizes.values()))

    outputs = []
    for start in range(0, size, chunk_size):
        chunk = {name: t if t is None else t[start : start + chunk_size] for name, t in inputs.items()}
        # The chunk is an argument, not a closure: checkpoint saves the random state of its arguments' devices.
        outputs.append(
            checkpoint(lambda chunk: forward(**chunk), chunk, use_reentrant=False, context_fn=_same_host_random)
        )
    return _join(outputs)


def _join(outputs: list[Any]) -> Any:
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs) if first.ndim else first
    if isinstance(first, Mapping):  # ModelOutput is one too, with its fields as keyword arguments
        joined = {key: _join([output[key] for output in outputs]) for key in first}
        return joined if type(first) is dict else type(first)(**joined)
    if isinstance(first, (tuple, list)):
        joined = [_join(list(values)) for values in zip(*outputs, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return first


def _same_host_random() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    """Contexts of a checkpoint's two passes: the second sees NumPy's and Python's random state of the first."""
    return contextlib.nullcontext(), _HostRandom()


class _HostRandom(contextlib.AbstractContextManager):
    """Inside: NumPy's and Python's random state as they were when this was made. Can be entered again and again."""

    def __init__(self):
        self.state = np.random.get_state(), random.getstate()

    def __enter__(self):
        self.outer = np.random.get_state(), random.getstate()
        self._set(self.state)

    def __exit__(self, *error):
        self._set(self.outer)

    @staticmethod
    def _set(state: tuple[Any, Any]) -> None:
        np.random.set_state(state[0])
        random.setstate(state[1])
