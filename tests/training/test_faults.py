"""A full disk, a dead worker, a dead rank: the run says what happened, loses nothing, and the next start goes on."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audio2img_core import AudioEncoder
from tests.helpers.audio import noise, write_audio
from training.loop.checkpoints import whole_checkpoints

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def start(command: str, words: list[str], *launcher: str, largest_file: int | None = None) -> subprocess.Popen:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "training", command, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit if largest_file else None,
    )


def wait_until(process: subprocess.Popen, condition) -> None:
    for _ in range(60_000):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    raise AssertionError("waited in vain")


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and what was said."""
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def children(pid: int) -> list[int]:
    """Processes below one, with those that it forked, by their numbers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def steps(output: Path) -> list[str]:
    return [path.name for path in whole_checkpoints(output / "checkpoints")]


@pytest.mark.parametrize("largest", [300_000, 700_000], ids=["in the weights", "in the optimizer's state"])
def test_a_disk_that_is_full_in_the_middle_of_a_checkpoint(words, tmp_path, largest):
    output = tmp_path / "run"
    process = start("fit", words(output))
    wait_until(process, lambda: steps(output) == ["checkpoint-3"])
    process.kill()
    process.communicate()
    code, said = end(start("fit", words(output), largest_file=largest))
    (error,) = (line for line in said.splitlines() if "error:" in line)
    assert code == 2 and "Traceback" not in said, said
    assert "checkpoint-6: could not be written" in error and "make room and start again" in error
    assert steps(output) == ["checkpoint-3"]  # nothing is lost, and what is cut off does not count
    code, said = end(start("fit", words(output)))
    assert code == 0 and "resuming from" in said and "checkpoint-6 is incomplete and is removed" in said, said
    AudioEncoder.from_pretrained(output / "encoder.safetensors")


def test_a_dead_data_worker(words, tmp_path):
    output = tmp_path / "run"
    more = {"trainer.dataloader_num_workers": "1", "trainer.max_steps": "30"}
    more |= {"trainer.save_steps": "10", "trainer.eval_steps": "10"}
    process = start("fit", words(output, **more))
    wait_until(process, lambda: steps(output))
    forked = [pid for pid in children(process.pid) if command_line(pid) == command_line(process.pid)]
    assert forked, [command_line(pid) for pid in children(process.pid)]
    for pid in forked:
        os.kill(pid, signal.SIGKILL)
    code, said = end(process)
    # The signal comes at any moment, while a checkpoint is written too.
    assert code == (2 if "could not be written" in said else 1) and "Traceback" not in said, said
    assert "worker" in said.splitlines()[-1], said
    code, said = end(start("fit", words(output, **more)))
    assert code == 0 and "resuming from" in said, said


def test_one_of_two_ranks_dies(words, tmp_path):
    """The launcher ends the other one; whatever checkpoint was whole is gone on with."""
    output = tmp_path / "run"
    more = {"trainer.max_steps": "9", "trainer.per_device_train_batch_size": "2"}
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    process = start("fit", words(output, **more), *launcher)
    wait_until(process, lambda: steps(output))
    ranks = [pid for pid in children(process.pid) if "training fit" in command_line(pid)]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    code, _ = end(process)
    assert code != 0
    for pid in ranks:
        assert "training fit" not in command_line(pid)
    kept = steps(output)
    assert kept
    code, said = end(start("fit", words(output, **more), *launcher))
    assert code == 0 and "resuming from" in said, said
    AudioEncoder.from_pretrained(output / "encoder.safetensors")


def test_a_process_of_prepare_dies(tmp_path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for i in range(60):
        write_audio(sounds / f"{i:02}.wav", noise(20.0, seed=i), 16_000)
        (sounds / f"{i:02}.txt").write_text(f"noise {i}")
    words = ["--run.data", str(sounds), "--run.output", str(tmp_path / "out"), "--jobs", "2", "--shard-size", "10"]
    process = start("prepare", words)
    wait_until(process, lambda: list((tmp_path / "out").glob("shard-*.tar")))
    workers = [pid for pid in children(process.pid) if "spawn_main" in command_line(pid)]
    os.kill(workers[0], signal.SIGKILL)
    code, said = end(process)
    (failed,) = (line for line in said.splitlines() if "failed:" in line)
    assert code == 1 and "a process died" in failed and "start again" in failed, said
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*.tar")}
    assert 1 <= len(written) < 6
    code, said = end(start("prepare", words))
    assert code == 0 and len(list((tmp_path / "out").glob("*.tar"))) == 6, said
    assert {path: path.stat().st_mtime_ns for path in written} == written  # what is done is not done again
    assert len((tmp_path / "out" / "index.jsonl").read_text().splitlines()) == 60
