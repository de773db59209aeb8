"""The exponential moving average of the trainable weights, kept beside them and in the checkpoints."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

FILE = "average.safetensors"
_STEP = "step"


class WeightAverage:
    """The average of a module's trainable parameters over its steps: a <- decay * a + (1 - decay) * w.

    The decay of step n is at most (1 + n) / (10 + n), so that the random start does not linger (TensorFlow's
    ExponentialMovingAverage; diffusers' `EMAModel` does the sums).

    Args:
        module: its parameters that require gradients when this is made.
        decay: between 0 and 1, such as 0.999.
    """

    def __init__(self, module: nn.Module, decay: float):
        from diffusers.training_utils import EMAModel

        self._named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._model = EMAModel(self._named.values(), decay=decay, foreach=True)

    def update(self) -> None:
        """Add the weights of this step."""
        self._model.step(self._named.values())

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Give the module the average as its weights inside the context."""
        self._model.store(self._named.values())
        self.apply()
        try:
            yield
        finally:
            self._model.restore(self._named.values())

    def apply(self) -> None:
        """Give the module the average as its weights for good."""
        self._model.copy_to(self._named.values())

    def state(self) -> dict[str, Any]:
        """Return the average and the number of its steps, for `load_state`."""
        tensors = dict(zip(self._named, self._model.shadow_params, strict=True))
        return {"step": self._model.optimization_step, "average": tensors}

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned.

        Raises:
            ValueError: The average is of other weights.
        """
        if state["average"].keys() != self._named.keys():
            raise ValueError("this is the average of other weights")
        for name, shadow in zip(self._named, self._model.shadow_params, strict=True):
            shadow.copy_(state["average"][name])
        self._model.optimization_step = state["step"]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the average into a checkpoint's folder."""
        state = self.state()
        tensors = {name: tensor.contiguous() for name, tensor in state["average"].items()}
        save_file(tensors, Path(folder) / FILE, metadata={_STEP: str(state["step"])})

    def load(self, folder: str | os.PathLike[str]) -> None:
        """Read the average of a checkpoint.

        Raises:
            ValueError: The checkpoint has no average, or one of other weights.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            raise ValueError(f"{folder}: this checkpoint has no average of the weights ({FILE})")
        with safe_open(file, "pt") as opened:
            step = int(opened.metadata()[_STEP])
        try:
            self.load_state({"step": step, "average": load_file(file)})
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
