"""Chunked forward passes: the same outputs and gradients as plain ones, in the memory of one chunk."""

from __future__ import annotations

import random
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from audio2img_core.encoder.model import AudioEncoderOutput
from audio2img_core.random_init import make_encoder
from training.config import FitConfig
from training.loop.start import start_encoder
from training.loss.alignment import AlignmentLoss, LossConfig
from training.loss.gradcache import chunked

BATCH, FRAMES = 8, 24
LOSS = LossConfig(regression=0.5, symmetric=True, learned_temperature=True)


@pytest.fixture
def encoder():
    """A tiny real one, with larger weights: as it starts, its tokens hardly depend on the sound."""
    encoder = make_encoder("sd15")
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            parameter.data *= 4
    return encoder


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    mask = torch.ones(BATCH, FRAMES, dtype=torch.long)
    mask[1, 16:] = 0
    return {"input_features": torch.randn(BATCH, FRAMES, 160), "attention_mask": mask}


def loss_and_gradients(encoder, run) -> tuple[float, dict[str, torch.Tensor]]:
    """The alignment loss of run() -> AudioEncoderOutput with fixed captions, and the gradients of the encoder."""
    generator = torch.Generator().manual_seed(1)
    encoder.zero_grad()
    output = run()
    text = torch.randn(output.tokens.shape, generator=generator)
    loss = AlignmentLoss(LOSS, log_scale=encoder.logit_scale)(output.tokens, text)["loss"]
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert one[1].keys() == other[1].keys() and len(one[1]) > 50
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=1e-5, rtol=1e-5, msg=name)
    assert max(g.abs().max() for g in one[1].values()) > 1e-3


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 100])
def test_gradients_are_the_plain_ones(encoder, inputs, chunk_size):
    plain = loss_and_gradients(encoder, lambda: encoder(**inputs))
    assert_same(loss_and_gradients(encoder, lambda: chunked(encoder, inputs, chunk_size)), plain)


def in_plain_chunks(encoder, inputs, chunk_size: int) -> AudioEncoderOutput:
    """Chunks without checkpoints: everything is kept, nothing is computed twice."""
    starts = range(0, BATCH, chunk_size)
    chunks = [encoder(**{name: x[i : i + chunk_size] for name, x in inputs.items()}) for i in starts]
    return AudioEncoderOutput(torch.cat([chunk.tokens for chunk in chunks]))


def seeded(run):
    torch.manual_seed(3)
    np.random.seed(3)
    return run()


def test_gradients_with_dropout_and_spec_augment(encoder, inputs):
    """Dropout draws from torch, SpecAugment in transformers from NumPy: both passes of a chunk see the same."""
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    backbone = encoder.backbone
    backbone.config.apply_spec_augment, backbone.config.mask_time_prob = True, 0.5
    backbone.config.mask_time_length = 4
    backbone.masked_spec_embed = nn.Parameter(torch.randn(backbone.config.hidden_size))

    plain, again = (
        loss_and_gradients(encoder, lambda: seeded(lambda: in_plain_chunks(encoder, inputs, 3))) for _ in range(2)
    )
    assert plain[0] == again[0]
    other = loss_and_gradients(encoder, lambda: in_plain_chunks(encoder, inputs, 3))
    for name in ("backbone.masked_spec_embed", "head.frame_proj.weight"):  # other numbers would be seen
        assert (other[1][name] - plain[1][name]).abs().max() > 1e-4, name

    assert_same(loss_and_gradients(encoder, lambda: seeded(lambda: chunked(encoder, inputs, 3))), plain)


def test_random_numbers_after_the_backward_pass_go_on_from_the_forward_pass():
    x = torch.randn(4, 2, requires_grad=True)

    def noisy(x):
        return {"y": x * torch.rand(()) * np.random.rand() * random.random()}

    states = []
    for backward in (False, True):
        random.seed(5)
        seeded(lambda: None)
        y = chunked(noisy, {"x": x}, 2)["y"]
        if backward:
            y.sum().backward()
        states.append((torch.rand(()).item(), np.random.rand(), random.random()))
    assert states[0] == states[1]
    torch.testing.assert_close(x.grad * x, y)


def test_backward_may_run_twice():
    weight = torch.randn(3, 3, requires_grad=True)
    y = chunked(lambda x: (x @ weight).tanh(), {"x": torch.randn(4, 3)}, 2).sum()
    first, second = (torch.autograd.grad(y, weight, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second)


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors made under it that are alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self.seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if id(storage) not in given and storage not in self.seen:
                self.seen.add(storage)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return out

    def _freed(self, size: int) -> None:
        self.alive -= size


def peak_bytes(rows: int, chunk_size: int | None) -> int:
    """Of a forward and backward pass of a network whose inner tensors are 8 times as wide as its output."""
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 32))]
    network, x = nn.Sequential(*layers), torch.randn(rows, 32)
    with LiveBytes() as live:
        y = network(x) if chunk_size is None else chunked(network, {"input": x}, chunk_size)
        y.square().mean().backward()
        del y
    return live.peak


def test_memory_is_that_of_one_chunk():
    rows, chunk = 512, 32
    plain, cached = peak_bytes(rows, None), peak_bytes(rows, chunk)
    assert plain > rows * 6 * (256 + 256 + 32) * 4  # what the layers save: the counter sees it
    assert cached < plain / 5
    # Twice the rows: what is kept grows by the outputs and what the loss makes of them, not by what is inside.
    growth = peak_bytes(2 * rows, chunk) - cached
    assert growth <= 6 * rows * 32 * 4


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor | None


def test_outputs_keep_their_kind(encoder, inputs):
    scale = torch.tensor(2.0, requires_grad=True)
    x = torch.arange(6.0).reshape(3, 2)

    def forward(x, extra=None):
        return {"pair": Pair(x * scale, extra), "list": [x, (x + 1,)], "scale": scale, "name": "kept"}

    out = chunked(forward, {"x": x, "extra": None}, 2)
    assert type(out) is dict and type(out["pair"]) is Pair and out["pair"].second is None
    torch.testing.assert_close(out["pair"].first, 2 * x)
    torch.testing.assert_close(out["list"][0], x)
    torch.testing.assert_close(out["list"][1][0], x + 1)
    assert out["scale"].item() == 2 and out["name"] == "kept"

    output = chunked(encoder, inputs, 3)
    assert isinstance(output, AudioEncoderOutput) and output.pooled is None
    torch.testing.assert_close(output.tokens, encoder(**inputs).tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [0, -1, 2.0])
def test_refuses_a_chunk_size(chunk_size):
    with pytest.raises(ValueError, match="chunk_size must be a whole number of at least 1"):
        chunked(lambda x: x, {"x": torch.ones(2)}, chunk_size)


@pytest.mark.parametrize("inputs", [{}, {"x": None}, {"x": torch.ones(2), "y": torch.ones(3)}, {"x": torch.ones(0)}])
def test_refuses_inputs_of_different_or_no_rows(inputs):
    with pytest.raises(ValueError, match="same number of rows, at least 1"):
        chunked(lambda **inputs: inputs, inputs, 1)


def test_a_training_that_starts_from_mini_goes_in_chunks():
    encoder = start_encoder(
        FitConfig.from_dict({"run": {"encoder": "mini", "target": "mini", "chunk_size": 2}})
    ).train()
    sizes = []
    encoder.head.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    encoder(torch.randn(5, 200, 160))
    assert sizes == [2, 2, 1]
