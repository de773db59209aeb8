"""Batches joined over ranks: two processes give the gradients of one with the joined batch.

This file is also the program that each rank runs: `python test_gather.py FOLDER`, with RANK set.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.loss.alignment import AlignmentLoss, LossConfig
from training.loss.gather import gather_rows
from training.loss.gradcache import chunked

ROOT = Path(__file__).parents[2]
WORLD, ROWS, POSITIONS, WIDTH = 2, 4, 3, 5
CONFIG = LossConfig(symmetric=True, learned_temperature=True, mask_repeated=True, pooled=0.5, regression=0.3)


class Model(nn.Module):
    """A small encoder with the learned temperature, in chunks or at once; gathers and returns the loss."""

    def __init__(self, chunk_size: int | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, WIDTH))
        self.loss = AlignmentLoss(CONFIG)
        self.chunk_size = chunk_size

    def forward(self, sound, text, caption_ids):
        if self.chunk_size is None:
            audio = self.encoder(sound)
        else:
            audio = chunked(self.encoder, {"input": sound}, self.chunk_size)
        audio, text, ids = gather_rows(audio), gather_rows(text), gather_rows(caption_ids)
        return self.loss(audio, text, caption_ids=ids)["loss"]


class OwnRows(Model):
    """The other form: a rank's own clips against the gathered captions, in one direction; the captions learn too."""

    def forward(self, sound, text, caption_ids):
        audio, text = self.encoder(sound), gather_rows(self.encoder(text))
        first = dist.get_rank() * ROWS if dist.is_initialized() else 0
        mine = torch.arange(first, first + len(audio))
        scores = torch.cosine_similarity(audio[:, None], text[None], dim=-1) / self.loss.logit_scale()
        return nn.functional.cross_entropy(scores, mine[:, None].repeat(1, POSITIONS))


class SplitBank(Model):
    """A bank of captions of which each rank has every second one."""

    def __init__(self):
        super().__init__()
        self.loss = AlignmentLoss(replace(CONFIG, bank=True))
        generator = torch.Generator().manual_seed(2)
        self.bank = torch.randn(7, POSITIONS, WIDTH, generator=generator)
        self.bank_ids = torch.tensor([0, 3, *range(100, 105)])  # some are the batch's own

    def forward(self, sound, text, caption_ids):
        audio, text = gather_rows(self.encoder(sound)), gather_rows(text)
        mine = slice(dist.get_rank(), None, WORLD) if dist.is_initialized() else slice(None)
        bank = {"bank": self.bank[mine], "bank_ids": self.bank_ids[mine]}
        bank["bank_join"] = gather_rows if dist.is_initialized() else None
        return self.loss(audio, text, caption_ids=gather_rows(caption_ids), **bank)["loss"]


MODELS = {"whole": Model, "chunked": lambda: Model(chunk_size=3), "own rows": OwnRows, "split bank": SplitBank}


def joined_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sound, text = (torch.randn(WORLD * ROWS, POSITIONS, WIDTH, generator=generator) for _ in range(2))
    ids = torch.arange(WORLD * ROWS)
    ids[5] = ids[0]  # a caption that two ranks have
    return {"sound": sound, "text": text, "caption_ids": ids}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}


def rank_main(folder: Path) -> None:
    rank, store = int(os.environ["RANK"]), (folder / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    part = {name: x[rank * ROWS : (rank + 1) * ROWS] for name, x in joined_batch().items()}
    results = {}
    for name, make in MODELS.items():
        model = DistributedDataParallel(make())
        loss = model(**part)
        loss.backward()
        results[name] = {"loss": loss.detach(), **gradients(model)}
    x = part["sound"].double().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    gathered = gather_rows(x)
    (gathered * (rank + 1)).sum().backward()
    results["rows"] = {"gathered": gathered.detach(), "gradient": x.grad}
    y = part["sound"].clone().requires_grad_()
    weights = joined_batch()["text"].transpose(0, 2).contiguous().transpose(0, 2)  # the gradient's strides
    (gather_rows(y) * weights).sum().backward()
    results["strides"] = {"gradient": y.grad}
    results["ids"] = {"gathered": gather_rows(part["caption_ids"])}
    try:
        gather_rows(torch.arange(2 + rank))
    except ValueError as error:
        results["unequal"] = str(error)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads now and then abort an interpreter that is being taken down: all is written by here


def run_ranks(folder: Path) -> None:
    """Run `rank_main` in one process for each rank."""
    command = [sys.executable, __file__, str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [subprocess.Popen(command, env={**env, "RANK": str(rank)}, stderr=subprocess.PIPE) for rank in range(WORLD)]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=90)
            assert rank.returncode == 0, errors.decode()[-2000:]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_give_the_gradients_of_one_with_the_joined_batch(two_ranks, name):
    model = MODELS[name]()
    loss = model(**joined_batch())
    loss.backward()
    expected = gradients(model)
    assert "loss.logit_scale.log_scale" in expected and len(expected) == 5
    assert sum(ranks[name]["loss"] for ranks in two_ranks) / WORLD == pytest.approx(loss.item(), abs=1e-6)
    for rank in two_ranks:
        for parameter, gradient in expected.items():
            assert gradient.abs().max() > 1e-4
            torch.testing.assert_close(rank[name][parameter], gradient, atol=1e-6, rtol=1e-5, msg=parameter)


def test_rows_and_ids_come_in_the_order_of_the_ranks(two_ranks):
    batch = joined_batch()
    for rank in two_ranks:
        assert torch.equal(rank["rows"]["gathered"], batch["sound"].double())
        assert torch.equal(rank["ids"]["gathered"], batch["caption_ids"])
        # rank 0 weighs all rows with 1, rank 1 with 2: a row's gradient is their sum
        assert (rank["rows"]["gradient"] == 3).all()
    for number, rank in enumerate(two_ranks):  # whatever the strides of the gradient that comes back
        own = batch["text"][number * ROWS : (number + 1) * ROWS]
        torch.testing.assert_close(rank["strides"]["gradient"], WORLD * own)


def test_processes_with_different_numbers_of_rows_are_refused(two_ranks):
    for rank in two_ranks:
        assert "same number of rows, not [2, 3]" in rank["unequal"]


def test_without_a_process_group_it_is_the_identity():
    x = torch.randn(2, 3, requires_grad=True)
    assert gather_rows(x) is x


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]))
