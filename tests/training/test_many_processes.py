"""One training on 1, 2 and 4 processes, by DDP and FSDP2: the same losses, and resumed with another number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load, load_file
from transformers import TrainingArguments

from audio2img_core import AudioEncoder
from audio2img_core.encoder.windows import WindowConfig
from audio2img_core.random_init import make_encoder
from training.cli import main
from training.config import load_settings
from training.loop.checkpoints import whole_checkpoints
from training.loop.fit import training_arguments

ROOT = Path(__file__).parents[2]
STEPS = 8


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny encoder without dropout, whose random numbers would differ from process to process."""
    made = make_encoder("sd15", head="query")
    made.config.window = WindowConfig(seconds=1.0)
    for name in vars(made.config.backbone):
        if "drop" in name:
            setattr(made.config.backbone, name, 0.0)
    folder = tmp_path_factory.mktemp("encoder")
    made.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def settings(words, sounds, encoder):
    def make(output, *, fsdp: bool = False, **more: str) -> list[str]:
        sharded = {"trainer.fsdp": "true"} if fsdp else {}
        return words(
            output,
            **{
                "run.encoder": encoder,
                "run.eval_data": str(sounds),
                "run.batch_size": "8",
                "trainer.max_steps": str(STEPS),
                "trainer.logging_steps": "1",
                "trainer.save_steps": "4",
                "trainer.eval_steps": "4",
                "trainer.learning_rate": "1e-2",
                "trainer.max_grad_norm": "1.0",
                "data.time_masks": "2",
                "data.freq_masks": "1",
                **sharded,
                **more,
            },
        )

    return make


def start(words: list[str], processes: int, *options: str) -> subprocess.Popen:
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *options, "-m", "training"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    # torch 2.13 shows processes that are started again the addresses of those that died in the store they share.
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    command = [sys.executable, "-m", *launcher, "fit", *words, "--preset", "default"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-5000:]
    return output


def wait_for_step(process: subprocess.Popen, output: Path, step: int) -> None:
    while not ((output / "metrics.jsonl").exists() and step in losses(output)):
        assert process.poll() is None, process.communicate()[0][-5000:]
        time.sleep(0.01)


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "fit" in child.cmdline()]


def losses(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    trained = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert len(trained) == len(dict(trained)), "a step is there twice"
    return dict(trained)


@pytest.fixture(scope="module")
def one_process(settings, tmp_path_factory):
    """The run of this process alone."""
    output = tmp_path_factory.mktemp("one") / "run"
    assert main(["fit", *settings(output), "--preset", "default"]) == 0
    return output


def final(output: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return next(line for line in lines if "final_loss" in line)


def check_equal(output: Path, one: Path) -> None:
    """The same losses, the same last evaluation and the same encoder at the end."""
    assert losses(output) == pytest.approx(losses(one), rel=1e-4)
    wanted, metrics = final(one), final(output)
    for name in ("final_clips", "final_cosine", "final_norm_ratio"):
        assert metrics[name] == pytest.approx(wanted[name], rel=1e-3), name
    ends = [AudioEncoder.from_pretrained(folder / "encoder.safetensors").state_dict() for folder in (one, output)]
    assert ends[0].keys() == ends[1].keys()
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, atol=1e-3, rtol=0, msg=name)


SPLIT = {"run.bank_bytes": "100000"}  # four captions are more: the bank is split over the processes


@pytest.mark.parametrize(
    ("processes", "fsdp", "more"),
    [
        (2, False, {**SPLIT, "run.chunk_size": "1"}),  # gathered batches, and chunks inside of DDP
        pytest.param(4, False, SPLIT, marks=pytest.mark.slow),
        pytest.param(2, True, {}, marks=pytest.mark.slow),
    ],
)
def test_processes_train_as_one(settings, one_process, tmp_path, processes, fsdp, more):
    finish(start(settings(tmp_path / "run", fsdp=fsdp, **more), processes))
    check_equal(tmp_path / "run", one_process)
    last = whole_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert len(list(last.glob("pytorch_model_fsdp_0/*.distcp"))) == (processes if fsdp else 0)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_killed_on_four_processes_and_resumed_on_two(settings, one_process, tmp_path, fsdp):
    words = settings(tmp_path / "run", fsdp=fsdp)
    first = start(words, 4)
    wait_for_step(first, tmp_path / "run", 5)
    for process in [*workers(first), psutil.Process(first.pid)]:
        process.kill()
    first.communicate()
    assert [path.name for path in whole_checkpoints(tmp_path / "run" / "checkpoints")] == ["checkpoint-4"]
    assert "resuming from" in finish(start(words, 2))
    check_equal(tmp_path / "run", one_process)
    # Killed when all was trained and only the encoder was not there yet: the best checkpoint is still known.
    before = (tmp_path / "run" / "encoder.safetensors").read_bytes()
    (tmp_path / "run" / "encoder.safetensors").unlink()
    assert "resuming from" in finish(start(words, 2))
    assert load(before).keys() == load_file(tmp_path / "run" / "encoder.safetensors").keys()
    for name, weight in load_file(tmp_path / "run" / "encoder.safetensors").items():
        torch.testing.assert_close(weight, load(before)[name], rtol=0, atol=1e-6)


def test_processes_that_would_each_train_alone_are_refused(flags, tmp_path, monkeypatch):
    """Torchrun started two, and Trainer sees one: on a machine without as many GPUs, say."""

    def sees_one_process(**options):
        with monkeypatch.context() as patch:
            patch.delenv("WORLD_SIZE")
            return TrainingArguments(**options)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("training.loop.fit.TrainingArguments", sees_one_process)
    with pytest.raises(ValueError, match="2 processes were started, but each would train by itself on cpu"):
        training_arguments(load_settings("default", [], flags(tmp_path / "run")))


@pytest.mark.slow
def test_torchrun_starts_again_when_a_process_dies(settings, one_process, tmp_path):
    run = start(settings(tmp_path / "run", fsdp=False), 2, "--max-restarts=1")
    wait_for_step(run, tmp_path / "run", 5)
    workers(run)[0].kill()
    assert "resuming from" in finish(run)
    check_equal(tmp_path / "run", one_process)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"run.batch_size": "8", "trainer.gradient_accumulation_steps": "3"},
            "run.batch_size is 8, which is not divisible by 3",
        ),
        ({"trainer.fsdp": "true", "run.ema_decay": "0.9"}, "run.ema_decay is not supported with trainer.fsdp"),
        ({"trainer.fsdp": "true", "run.lora_rank": "4"}, "run.lora_rank is not supported with trainer.fsdp"),
        ({"trainer.fsdp": "true"}, "only works in distributed training"),
    ],
)
def test_what_cannot_be_shared_out(words, tmp_path, capsys, more, says):
    assert main(["fit", "--preset", "default", *words(tmp_path / "run", **more)]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
