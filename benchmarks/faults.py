"""`audio2img-train fit` and `prepare`, killed with SIGKILL at random moments: `python benchmarks/faults.py --kills 30`.

Each is a small run on 24 sounds made here. It is started, killed at a random moment of its work, looked at, and started
again, until it has ended; then the next run begins, until there were as many kills as asked for. What counts as a
fault: a file under its final name that is not whole, a whole checkpoint that is gone, a start that does not go on, and
an end that is not the one of a run that nobody killed. Prints a table and writes `benchmarks/results/faults.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from audio2img_core import AudioEncoder, load_audio  # noqa: E402
from audio2img_core.batch.jobs import INDEX  # noqa: E402
from audio2img_core.encoder.checkpoint import save  # noqa: E402
from audio2img_core.random_init import make_pair  # noqa: E402
from benchmarks.generated import noise, sine, write_audio  # noqa: E402
from training.cli import main as main_of_training  # noqa: E402
from training.data.sources import open_source  # noqa: E402
from training.loop import fit as _fit  # noqa: E402, F401 - so that it need not be imported again at each start
from training.loop.checkpoints import whole_checkpoints  # noqa: E402

FIT = {
    "run.target": "sd15", "run.backbone": "tiny", "window.seconds": "1.0",
    "trainer.max_steps": "16", "trainer.per_device_train_batch_size": "4", "trainer.gradient_accumulation_steps": "1",
    "trainer.learning_rate": "1e-3", "trainer.logging_steps": "1", "trainer.eval_steps": "4", "trainer.save_steps": "4",
    "trainer.gradient_checkpointing": "false", "trainer.use_cpu": "true", "run.ema_decay": "0.9",
}  # fmt: skip
CLIPS = 24


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="of each of the two (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--only", choices=("fit", "prepare"), help="one of the two alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_inputs(folder)
        for kind in (Fit, Prepare):
            if args.only in (None, kind.name):
                results[kind.name] = _kill_often(kind(folder), args.kills, random.Random(args.seed))
    target = ROOT / "benchmarks" / "results" / "faults.json"
    from benchmarks.paired import machine

    known = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    target.write_text(json.dumps({**known, **results, "machine": machine()}, indent=1) + "\n", encoding="utf-8")
    print(f"{'':10}{'kills':>7}{'starts':>8}{'runs':>6}{'faults':>8}")
    for kind, result in results.items():
        print(f"{kind:10}{result['kills']:7}{result['starts']:8}{result['runs']:6}{len(result['faults']):8}")
    return 1 if any(result["faults"] for result in results.values()) else 0


def _kill_often(job: Job, kills: int, rng: random.Random) -> dict[str, Any]:
    begun = time.monotonic()
    process = job.start(job.whole)
    working = _until_it_writes(process, job.whole)
    process.wait()
    if process.returncode:
        raise SystemExit(f"{job.name} does not run at all: {process.said.read_text()[-2000:]}")
    length = time.monotonic() - working
    print(f"{job.name}: {working - begun:.1f} s until it works, {length:.1f} s of work", flush=True)
    result: dict[str, Any] = {"kills": 0, "starts": 0, "runs": 0, "moments_s": [], "faults": []}
    while result["kills"] < kills:
        output = job.folder / f"{job.name}-{result['runs']}"
        result["runs"] += 1
        while True:
            result["starts"] += 1
            before = job.finished(output)
            process = job.start(output)
            _until_it_writes(process, output)
            moment = rng.uniform(0, length) if result["kills"] < kills else float("inf")
            if not process.wait(moment):
                process.kill()
                result["kills"] += 1
                result["moments_s"].append(round(moment, 3))
            problems = job.look(output)
            if lost := sorted(before - job.finished(output)):
                problems.append(f"lost: {', '.join(lost)}")
            ended = process.returncode != -signal.SIGKILL
            if ended and process.returncode:
                problems.append(f"did not go on: {process.said.read_text()[-500:]}")
            if ended and not problems:
                problems += job.compare(output)
            result["faults"] += [f"kill {result['kills']}: {problem}" for problem in problems]
            print(
                f"{job.name}: kill {result['kills']}, {'ended' if ended else f'at {moment:.2f} s'} {problems}",
                flush=True,
            )
            if ended:
                break
        shutil.rmtree(output, ignore_errors=True)
    return result


class Started:
    """The command in a process of its own, forked from this one, which has imported all that it needs."""

    def __init__(self, words: list[str], said: Path):
        self.said, self.returncode = said, None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                for number in (1, 2):
                    os.dup2(log, number)
                code = main_of_training(words)
            except SystemExit as error:
                code = error.code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code or 0)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, seconds: float = float("inf")) -> bool:
        """Whether it has ended within that time."""
        latest = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < latest:
            time.sleep(0.001)
        return self.returncode is not None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()


class Job:
    """A command, where it writes, and what its files must be."""

    name = ""

    def __init__(self, folder: Path):
        self.folder, self.whole = folder, folder / f"{self.name}-whole"

    def words(self, output: Path) -> list[str]:
        raise NotImplementedError

    def start(self, output: Path) -> Started:
        return Started([self.name, *self.words(output)], self.folder / "said.txt")

    def finished(self, output: Path) -> set[str]:
        """What must never be lost again."""
        return set()

    def look(self, output: Path) -> list[str]:
        """What is not whole under its final name."""
        raise NotImplementedError

    def compare(self, output: Path) -> list[str]:
        """How an end differs from that of a run that nobody killed."""
        raise NotImplementedError


class Fit(Job):
    name = "fit"

    def words(self, output: Path) -> list[str]:
        flags = {**FIT, "run.data": str(self.folder / "sounds"), "run.teacher": str(self.folder / "diffusion")}
        return [word for name, value in {**flags, "run.output": str(output)}.items() for word in (f"--{name}", value)]

    def finished(self, output: Path) -> set[str]:
        steps = [int(path.name.split("-")[1]) for path in whole_checkpoints(output / "checkpoints")]
        return {f"step {step}" for step in range(max(steps, default=-1) + 1)}

    def look(self, output: Path) -> list[str]:
        problems = _broken_tensors(output)
        for folder in whole_checkpoints(output / "checkpoints"):
            try:
                json.loads((folder / "trainer_state.json").read_text())
                for name in ("optimizer.pt", "scheduler.pt"):
                    torch.load(folder / name, weights_only=True)
                AudioEncoder.from_pretrained(folder)
            except Exception as error:
                problems.append(f"{folder.name}: {error}")
        for path in (output / "encoder.safetensors", output / "encoder"):
            if path.exists():
                try:
                    AudioEncoder.from_pretrained(path)
                except Exception as error:
                    problems.append(f"{path.name}: {error}")
        return problems

    def compare(self, output: Path) -> list[str]:
        ends = [AudioEncoder.from_pretrained(path / "encoder").state_dict() for path in (self.whole, output)]
        apart = max(float((ends[0][name] - ends[1][name]).abs().max()) for name in ends[0])
        losses = [_losses(path) for path in (self.whole, output)]
        problems = [] if apart < 5e-3 else [f"the weights differ by {apart:.2g}"]
        if losses[0].keys() != losses[1].keys():
            problems.append(f"steps {sorted(losses[1])} in the log instead of {sorted(losses[0])}")
        elif (most := max(abs(losses[0][s] - losses[1][s]) / abs(losses[0][s]) for s in losses[0])) > 1e-3:
            problems.append(f"the losses differ by {most:.2g}")
        return problems


class Prepare(Job):
    name = "prepare"

    def words(self, output: Path) -> list[str]:
        data, teacher = str(self.folder / "sounds"), str(self.folder / "diffusion")
        flags = {"run.data": data, "run.teacher": teacher, "run.target": "sd15", "run.output": str(output)}
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        return [*words, "--jobs", "1", "--shard-size", "4"]

    def finished(self, output: Path) -> set[str]:
        return {p.name for p in output.glob("*.tar") if not p.name.startswith(".")}

    def look(self, output: Path) -> list[str]:
        problems = _broken_tensors(output)
        for name in sorted(self.finished(output)):
            for clip in open_source(output / name):
                try:
                    samples = load_audio(io.BytesIO(clip.audio))[0].shape[1]
                    if samples not in {_samples(number) for number in range(CLIPS)}:
                        problems.append(f"{clip.key}: {samples} samples")
                except ValueError as error:
                    problems.append(f"{clip.key}: {error}")
        index = output / INDEX
        if index.exists() and len(index.read_text().splitlines()) != CLIPS:
            problems.append(f"{INDEX} is not complete")
        return problems

    def compare(self, output: Path) -> list[str]:
        ends = [[(clip.key, clip.audio, clip.captions) for clip in open_source(path)] for path in (self.whole, output)]
        return [] if ends[0] == ends[1] else ["the clips differ"]


def _samples(number: int) -> int:
    return 16_000 * 3 + 160 * number


def _make_inputs(folder: Path) -> None:
    (folder / "sounds").mkdir()
    for i in range(CLIPS):
        clip = noise(4.0, seed=i) if i % 2 else sine(4.0, freq=200.0 + 30 * i)
        write_audio(folder / "sounds" / f"{i:02}.wav", clip[: _samples(i)], 16_000)
        (folder / "sounds" / f"{i:02}.txt").write_text(("noise", "a tone", "a low tone", "rain")[i % 4])
    encoder, diffusion = make_pair("sd15")
    diffusion.save_pretrained(folder / "diffusion")
    save(encoder, folder / "encoder")


def _broken_tensors(output: Path) -> list[str]:
    """Safetensors under their final names that do not load, outside of checkpoints that are not whole."""
    problems = []
    for path in output.rglob("*.safetensors"):
        unfinished = path.parent.name.startswith("checkpoint-") and not (path.parent / "whole").exists()
        if not unfinished and not any(part.startswith(".") for part in path.relative_to(output).parts):
            try:
                load_file(path)
            except Exception as error:
                problems.append(f"{path.relative_to(output)}: {error}")
    return problems


def _losses(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def _until_it_writes(process: Started, output: Path) -> float:
    """Wait until a process has changed a file, which comes after it has looked at its settings; the time by then."""
    begun = time.time()
    while process.poll() is None and not any(_changed(path) >= begun for path in output.rglob("*")):
        time.sleep(0.005)
    return time.monotonic()


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


if __name__ == "__main__":
    raise SystemExit(main())
