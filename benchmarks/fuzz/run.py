"""Damaged sound files, fed to all that opens them: `python benchmarks/fuzz/run.py --files 20000`.

Each file is a real one (wav, flac, mp3, ogg, opus, m4a, mp4, mkv, webm) with damage that knows its format, made of the
seed and its number alone. A worker process opens it with `load_audio` (whole, and a part), `read_clips`, and the Load
Audio node outside of ComfyUI; every 20th goes through `audio2img encode` in the process, and every 1000th through the
command in a process of its own. What counts as a fault: a signal, more than 5 s of processor time or 60 s by the clock,
memory beyond the bound (three times what `AUDIO2IMG_MAX_SECONDS`, 600 here, allows, and 128 MB), an error that is
none of those documented, and a message that is not one line. Files with faults are kept. A stopped call goes on.
Prints a table and writes `benchmarks/results/fuzz.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import io
import json
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from mutate import mutated, write_seeds  # noqa: E402

SECONDS, CLOCK = 5.0, 60.0  # of processor time, and by the clock
MAX_SECONDS = 600.0
BOUND = 3 * MAX_SECONDS * 2 * 48_000 * 4 + 128e6  # bytes a file may take: in frames, as one, resampled or checked
COMMAND_EVERY, PROCESS_EVERY = 20, 1000
DOCUMENTED = (ValueError, FileNotFoundError, PermissionError)
LEAK = 200e6  # bytes that a worker may be larger after its 2,000 files than after its first 200
WORKER_FILES = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000, help="files in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument("--only", type=int, metavar="N", help="try file N alone, here, and show what comes of it")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fuzz", help="journal and files with faults")
    args = parser.parse_args()
    os.environ["AUDIO2IMG_MAX_SECONDS"] = str(MAX_SECONDS)
    seeds = write_seeds(args.folder / "seeds")
    if args.only is not None:
        data, suffix, damage = mutated(_random(args.seed, args.only), seeds)
        file = args.folder / f"only{suffix}"
        file.write_bytes(data)
        print(json.dumps({"damage": damage, **_Targets(args.folder, 0).run(args.only, file)}, indent=1))
        return 0
    journal = args.folder / f"seed-{args.seed}.jsonl"
    results = _read(journal)
    todo = [number for number in range(args.files) if number not in results]
    begun = time.monotonic()
    with open(journal, "a", encoding="utf-8") as file:
        for result in _watched(todo, args, seeds):
            results[result["number"]] = result
            file.write(json.dumps(result) + "\n")
            file.flush()
            if len(results) % 500 == 0 or result["faults"]:
                print(f"{len(results)} files, {time.monotonic() - begun:.0f} s: {result['faults'] or ''}", flush=True)
    return _report([results[n] for n in sorted(results) if n < args.files], args)


def _watched(todo: list[int], args: argparse.Namespace, seeds: list[Path]):
    """Results of the files, from workers that are replaced when they die or take too long."""
    numbers = iter(todo)
    workers: list[_Worker] = []
    try:
        for slot in range(min(args.jobs, len(todo))):
            workers.append(_Worker(slot, args, seeds))
        for worker in workers:
            worker.give(next(numbers, None))
        while any(w.number is not None for w in workers):
            wait([w.pipe for w in workers if w.number is not None] + [w.process.sentinel for w in workers], timeout=0.2)
            for i, worker in enumerate(workers):
                if worker.number is None:
                    continue
                result = worker.result()
                if result is None:
                    continue
                yield result
                if worker.gone or worker.files >= WORKER_FILES:
                    worker.end()
                    workers[i] = worker = _Worker(worker.slot, args, seeds)
                worker.give(next(numbers, None))
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """One process and the file that it has."""

    def __init__(self, slot: int, args: argparse.Namespace, seeds: list[Path]):
        context = multiprocessing.get_context("spawn")
        self.slot, self.args, self.gone, self.files = slot, args, False, 0
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, slot, args.seed, args.folder, seeds), daemon=True)
        self.process.start()
        theirs.close()
        self.number: int | None = None
        self.small: int | None = None
        self.pipe.recv()  # it has loaded everything

    def give(self, number: int | None) -> None:
        self.number, self.begun, self.cpu = number, time.monotonic(), _processor(self.process.pid)
        if number is not None:
            self.pipe.send(number)

    def result(self) -> dict[str, Any] | None:
        """What came of the file; None where the worker is still at it."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self.pipe.poll():
                return self._checked(self.pipe.recv())
        if not self.process.is_alive():
            self.gone = True
            return self._fault(f"crash: the worker ended with {self.process.exitcode}")
        clock = time.monotonic() - self.begun
        cpu = _processor(self.process.pid) - self.cpu
        # A file of the command line's also waits for models.
        most = SECONDS if self.number % COMMAND_EVERY else 6 * SECONDS
        if cpu > most or clock > CLOCK:
            self.process.kill()
            self.process.join()
            self.gone = True
            return self._fault(f"hang: {cpu:.1f} s of processor time, {clock:.1f} s by the clock")
        return None

    def _checked(self, result: dict[str, Any]) -> dict[str, Any]:
        self.files += 1
        if self.files == 200:
            self.small = result["size"]
        elif self.files == WORKER_FILES and self.small is not None and result["size"] - self.small > LEAK:
            result["faults"].append(f"leak: {(result['size'] - self.small) / 1e6:.0f} MB in {WORKER_FILES} files")
        return result

    def _fault(self, words: str) -> dict[str, Any]:
        kept = self.args.folder / "faults"
        kept.mkdir(exist_ok=True)
        for file in self.args.folder.glob(f"input-{self.slot}/now.*"):
            file.replace(kept / f"{self.args.seed}-{self.number}{file.suffix}")
        return {"number": self.number, "damage": "", "outcomes": {}, "faults": [words], "seconds": 0.0, "grown": 0}

    def end(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.pipe.send(None)
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(pipe: Connection, slot: int, seed: int, folder: Path, seeds: list[Path]) -> None:
    targets = _Targets(folder, slot)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        data, suffix, damage = mutated(_random(seed, number), seeds)
        for old in targets.input.glob("now.*"):
            old.unlink()
        file = targets.input / f"now{suffix}"
        file.write_bytes(data)
        result = targets.run(number, file)
        if result["faults"]:
            (folder / "faults").mkdir(exist_ok=True)
            (folder / "faults" / f"{seed}-{number}{suffix}").write_bytes(data)
        pipe.send({"number": number, "damage": damage, **result})


class _Targets:
    """All that opens a file, each with its rules."""

    def __init__(self, folder: Path, slot: int):
        import torch

        torch.set_num_threads(1)
        self.input = folder / f"input-{slot}"
        self.input.mkdir(parents=True, exist_ok=True)
        os.environ["AUDIO2IMG_INPUT"] = str(self.input)
        from audio2img_core.audio.io import load_audio
        from audio2img_core.audio.waveform import read_clips
        from audio2img_core.cli import main as command

        self.load_audio, self.read_clips, self.command = load_audio, read_clips, command
        self.command(["encode", str(folder / "seeds" / "mono.flac"), "-o", str(self.input / "warm.safetensors")])
        self.node = _pack().NODE_CLASS_MAPPINGS["Audio2ImgLoadAudio"]
        self.logged = _Lines()
        for name in ("audio2img_core", "pack"):
            logger = logging.getLogger(name)
            logger.handlers[:] = [self.logged]
            logger.propagate = False

    def run(self, number: int, file: Path) -> dict[str, Any]:
        """Outcomes by target, faults, seconds, and bytes that the process grew by for a moment."""
        rng = random.Random(number)
        start = rng.choice((0.0, 0.7, 2.1, 2.9, 100.0, 1e6))
        self.faults: list[str] = []
        self.logged.lines.clear()
        outcomes = {}
        before = _memory("VmRSS")
        _reset_peak()
        begun = time.process_time()
        calls = {
            "load_audio": lambda: self.load_audio(file),
            "a part": lambda: self.load_audio(file, start=start, duration=0.5, sample_rate=None),
            "read_clips": lambda: self.read_clips(file),
            "node": lambda: self._node(file.name),
        }
        for name, call in calls.items():
            outcomes[name] = self._call(name, call, file)
        if number % COMMAND_EVERY == 0:
            outcomes["encode"] = self._encode(file)
        seconds = time.process_time() - begun
        grown = _memory("VmHWM") - before
        if number % PROCESS_EVERY == 0:
            outcomes["process"] = self._process(file)
        if grown > BOUND:
            self.faults.append(f"memory: {grown / 1e6:.0f} MB more")
        self.faults += [f"log: {line!r}" for line in self.logged.lines if "\n" in line or len(line) > 400]
        size = _held()
        return {"outcomes": outcomes, "faults": self.faults, "seconds": round(seconds, 3), "grown": grown, "size": size}

    def _call(self, name: str, call: Any, file: Path) -> str:
        import torch

        try:
            found = call()
            waveform, rate = found if isinstance(found, tuple) else (found, 16_000)
            good = waveform.dtype == torch.float32 and waveform.numel() > 0 and bool(torch.isfinite(waveform).all())
            if not good or not 1_000 <= rate <= 1_536_000:
                self.faults.append(f"{name}: gave {waveform.dtype} {list(waveform.shape)} at {rate} Hz")
            return "decoded"
        except DOCUMENTED as error:
            text = str(error)
            if "\n" in text or len(text) > 500 or file.name not in text:
                self.faults.append(f"{name}: {type(error).__name__} is no line that names the file: {text[:300]!r}")
            return "refused"
        except BaseException as error:
            self.faults.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            return "fault"

    def _node(self, name: str) -> Any:
        said = self.node.VALIDATE_INPUTS(name)
        if said is not True:
            raise ValueError(said)
        self.node.IS_CHANGED(name, 0.0, 0.0)
        (audio,) = self.node().execute(name, 0.0, 0.0)
        return audio["waveform"], audio["sample_rate"]

    def _encode(self, file: Path) -> str:
        out = file.parent / "out.safetensors"
        out.unlink(missing_ok=True)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                code = self.command(["encode", str(file), "-o", str(out), "--duration", "1"])
        except BaseException as error:
            self.faults.append(f"encode: {type(error).__name__}: {str(error)[:300]}")
            return "fault"
        finally:
            logging.getLogger("audio2img_core").handlers[:] = [self.logged]
        return self._said("encode", code, said.getvalue(), out)

    def _process(self, file: Path) -> str:
        out = file.parent / "process.safetensors"
        out.unlink(missing_ok=True)
        line = [sys.executable, "-m", "audio2img_core.cli", "encode", str(file), "-o", str(out), "--duration", "1"]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=CLOCK)
        # Libraries of an environment may say what they like while they are loaded, but for a traceback.
        ours = [s for s in done.stderr.splitlines() if s.startswith(("audio2img: ", "Traceback"))]
        return self._said("process", done.returncode, "\n".join(ours), out)

    def _said(self, name: str, code: int, text: str, out: Path) -> str:
        lines = text.splitlines()
        if code not in (0, 2) or (code == 2 and not lines) or any(not s.startswith("audio2img: ") for s in lines):
            self.faults.append(f"{name}: exit code {code}, said {text[:300]!r}")
        if out.exists() != (code == 0):
            self.faults.append(f"{name}: exit code {code}, but the output is {'' if out.exists() else 'not '}there")
        return "decoded" if code == 0 else "refused"


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _pack() -> Any:
    """The nodes, loaded as ComfyUI loads them."""
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    return module


def _report(results: list[dict[str, Any]], args: argparse.Namespace) -> int:
    rows: dict[str, Counter] = {}
    for result in results:
        for name, outcome in result["outcomes"].items():
            rows.setdefault(name, Counter())[outcome] += 1
    print(f"\n{'':12}{'decoded':>9}{'refused':>9}{'fault':>9}")
    for name, counts in rows.items():
        print(f"{name:12}" + "".join(f"{counts[kind]:9}" for kind in ("decoded", "refused", "fault")))
    faults = [{"file": r["number"], "damage": r["damage"], "faults": r["faults"]} for r in results if r["faults"]]
    summary = {
        "files": len(results),
        "seed": args.seed,
        "bounds": {"seconds": SECONDS, "memory_mb": round(BOUND / 1e6), "max_seconds_of_sound": MAX_SECONDS},
        "outcomes": {name: dict(counts) for name, counts in rows.items()},
        "longest_s": max((r["seconds"] for r in results if r["number"] % COMMAND_EVERY), default=0),
        "largest_growth_mb": round(max((r["grown"] for r in results), default=0) / 1e6),
        "files_with_faults": len(faults),
        "faults": faults[:50],
    }
    from benchmarks.paired import machine

    target = ROOT / "benchmarks" / "results" / "fuzz.json"
    target.write_text(json.dumps({**summary, "machine": machine()}, indent=1) + "\n", encoding="utf-8")
    print(f"{len(results)} files, {len(faults)} with faults; longest {summary['longest_s']} s, largest growth ", end="")
    print(f"{summary['largest_growth_mb']} MB; {target.relative_to(ROOT)}")
    return 1 if faults else 0


def _read(journal: Path) -> dict[int, dict[str, Any]]:
    results = {}
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line that a killed call left half written
                result = json.loads(line)
                results[result["number"]] = result
    return results


def _random(seed: int, number: int) -> random.Random:
    return random.Random(f"{seed}/{number}")


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def _held() -> int:
    """Bytes of the process without what the C library keeps for later."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return _memory("VmRSS")


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _processor(pid: int) -> float:
    """Seconds of processor time of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    raise SystemExit(main())
