"""What the benchmarks share: two codes measured in turn, one in a process of its own, the machine, the results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], *, runs: int, warm: bool = True) -> dict[str, float]:
    """Median seconds of both, each run once before (`warm`) and then in turn, and the median of the pairs' ratios."""
    if warm:
        ours(), theirs()
    seconds = [(seconds_of(ours), seconds_of(theirs)) for _ in range(runs)]
    return {
        "ours": statistics.median(a for a, _ in seconds),
        "theirs": statistics.median(b for _, b in seconds),
        "ratio": statistics.median(b / a for a, b in seconds),
    }


def seconds_of(code: Callable[[], Any]) -> float:
    """Seconds that `code` takes, work on a GPU to its end, after a rest: threads of the code before may still spin."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    time.sleep(0.2)
    start = time.perf_counter()
    code()
    wait()
    return time.perf_counter() - start


def in_child(script: str, *arguments: object) -> dict[str, Any]:
    """Run `script` with these arguments; what it prints, as JSON, and `peak`, the most memory it held in bytes."""
    command = [sys.executable, script, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(RESULTS.parents[1])}
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)}: ended with status {status}")
    scale = 1 if sys.platform == "darwin" else 1024
    return {**json.loads(printed.splitlines()[-1]), "peak": usage.ru_maxrss * scale}


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Where a result was measured: processor, threads, versions, load."""
    import torch
    import transformers

    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load_before": os.getloadavg()[0],
    }


def write_result(name: str, result: dict[str, Any]) -> None:
    """Write `benchmarks/results/NAME.json`; what ran on a GPU, `NAME-CARD.json`."""
    card = result["machine"]["gpu"]
    if card is not None:
        name += "-" + card.lower().replace(" ", "-")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def read_result(name: str) -> dict[str, Any]:
    """What `benchmarks/results/NAME.json` holds; nothing where there is none."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
