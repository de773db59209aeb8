"""Runs that are killed resume to the same losses; two processes share a stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from audio2img_core import AudioEncoder
from training.loop.checkpoints import whole_checkpoints

ROOT = Path(__file__).parents[2]


def start(words: list[str], *launcher: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    program = [sys.executable, "-m", *launcher, "training", "fit", *words]
    return subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def kill_when(process: subprocess.Popen, condition) -> None:
    for _ in range(300_000):
        if condition() or process.poll() is not None:
            break
        time.sleep(0.001)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.communicate()


def losses(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    trained = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert len(trained) == len(dict(trained)), "a step is there twice"
    return dict(trained)


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_losses(words, tmp_path):
    """Killed in the middle of an epoch, and in the middle of saving: as if nothing had been."""
    more = {
        "trainer.max_steps": "16",
        "trainer.logging_steps": "1",
        "trainer.save_steps": "4",
        "trainer.eval_steps": "4",
        "trainer.gradient_accumulation_steps": "2",
        "run.ema_decay": "0.9",
    }
    whole = start(words(tmp_path / "whole", **more))
    output = tmp_path / "killed"
    saved = output / "checkpoints"
    finish(whole)
    again = words(output, **more)
    kill_when(start(again), lambda: (output / "metrics.jsonl").exists() and 6 in losses(output))
    assert [p.name for p in whole_checkpoints(saved)] == ["checkpoint-4"]
    kill_when(start(again), lambda: (saved / "checkpoint-12").exists())
    # What was cut off while it was written does not count; what was complete before it does.
    assert [p.name for p in whole_checkpoints(saved)][-1] == "checkpoint-8"
    printed = finish(start(again))
    assert "resuming from" in printed
    # Up to the order of float sums, which the place of a tensor in memory can change.
    assert losses(output) == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    ends = [AudioEncoder.from_pretrained(tmp_path / name / "encoder").state_dict() for name in ("whole", "killed")]
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], atol=2e-3, rtol=0, msg=name)


@pytest.mark.slow
def test_two_processes_share_a_stream(words, sounds, tmp_path):
    """Tar shards on two ranks with two workers each, judged by a folder; bad clips of all ranks end in one list."""
    import tarfile

    for number in range(4):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for i in range(number, 24, 4):
                for suffix in (".wav", ".txt"):
                    tar.add(sounds / f"{i:02}{suffix}", f"{i:02}{suffix}")
            if number in (0, 1):
                bad = tmp_path / "bad.wav"
                bad.write_bytes(b"no sound")
                tar.add(bad, f"bad{number}.wav")
                tar.add(sounds / "00.txt", f"bad{number}.txt")
    more = {
        "run.data": str(tmp_path / "{0..3}.tar"),
        "run.eval_data": str(sounds),
        "trainer.max_steps": "8",
        "trainer.per_device_train_batch_size": "2",
        "trainer.dataloader_num_workers": "1",
        "data.max_bad_share": "0.9",
    }
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    finish(start(words(tmp_path / "run", **more), *launcher))
    assert len(losses(tmp_path / "run")) == 4
    skipped = (tmp_path / "run" / "skipped.csv").read_text()
    assert "bad0" in skipped and "bad1" in skipped
    assert not list((tmp_path / "run").glob("skipped.rank*"))
