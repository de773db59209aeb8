"""Tiny made sounds and a teacher with random weights."""

from __future__ import annotations

import pytest
import torch

from training.recipes.mini.ear.store import StoreWriter
from training.recipes.mini.ear.teacher import RATE, Teacher

# kernel, expanded, out channels and squeeze (0 = none) of mn04's 15 blocks, after 8 channels of the stem.
BLOCKS = (
    *((3, 8, 8, 0), (3, 24, 16, 0), (3, 32, 16, 0), (5, 32, 16, 8), (5, 48, 16, 16), (5, 48, 16, 16)),
    *((3, 96, 32, 0), (3, 80, 32, 0), (3, 72, 32, 0), (3, 72, 32, 0), (3, 192, 48, 48), (3, 272, 48, 72)),
    *((5, 272, 64, 72), (5, 384, 64, 96), (5, 384, 64, 96)),
)


def random_weights() -> dict[str, torch.Tensor]:
    """Tensors of mn04's names and shapes."""
    generator = torch.Generator().manual_seed(1)
    weights = {}

    def conv(name: str, *shape: int) -> None:
        scale = (shape[1] * shape[2] * shape[3]) ** -0.5
        weights[f"{name}.0.weight"] = torch.randn(shape, generator=generator) * scale
        for part in ("weight", "running_var"):
            weights[f"{name}.1.{part}"] = torch.rand(shape[0], generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            weights[f"{name}.1.{part}"] = torch.randn(shape[0], generator=generator) * 0.1

    def linear(name: str, out: int, inner: int) -> None:
        weights[f"{name}.weight"] = torch.randn(out, inner, generator=generator) * inner**-0.5
        weights[f"{name}.bias"] = torch.zeros(out)

    conv("features.0", 8, 1, 3, 3)
    inner = 8
    for i, (kernel, expanded, out, squeeze) in enumerate(BLOCKS, 1):
        part = 0
        if expanded != inner:
            conv(f"features.{i}.block.0", expanded, inner, 1, 1)
            part = 1
        conv(f"features.{i}.block.{part}", expanded, 1, kernel, kernel)
        if squeeze:
            part += 1
            linear(f"features.{i}.block.{part}.conc_se_layers.0.fc1", squeeze, expanded)
            linear(f"features.{i}.block.{part}.conc_se_layers.0.fc2", expanded, squeeze)
        conv(f"features.{i}.block.{part + 1}", out, expanded, 1, 1)
        inner = out
    conv("features.16", 384, 64, 1, 1)
    linear("classifier.2", 512, 384)
    linear("classifier.5", 527, 512)
    return weights


@pytest.fixture
def weights():
    """Tensors of mn04's names and shapes, at random."""
    return random_weights()


@pytest.fixture(scope="session")
def teacher():
    return Teacher(random_weights())


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Eight sounds of 1 to 6 s, of two kinds and unlabelled, all in the training split."""
    folder = tmp_path_factory.mktemp("store")
    writer = StoreWriter(folder)
    generator = torch.Generator().manual_seed(0)
    for i in range(8):
        sound = torch.randn(RATE * (1 + 5 * (i % 2)), generator=generator)
        kind = ("dog", "rain", None)[i % 3]
        writer.add(sound, {"id": f"{i}", "kind": kind, "source": f"s{i}", "licence": "CC0", "split": "train"})
    return folder


@pytest.fixture(scope="session")
def captions():
    """The captions in the tokens of the embedded text model."""
    from training.recipes.mini.ear.align import DIFFUSION, Captions

    return Captions(DIFFUSION, torch.device("cpu"))
