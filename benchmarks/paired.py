"""What the benchmarks share: two codes measured in turn, the machine, and where the results go."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], *, runs: int) -> dict[str, float]:
    """Median seconds of both, each run once before and then in turn, and the median of the pairs' ratios."""
    ours(), theirs()
    seconds: list[tuple[float, float]] = []
    for _ in range(runs):
        pair = []
        for code in (ours, theirs):
            start = time.perf_counter()
            code()
            pair.append(time.perf_counter() - start)
        seconds.append((pair[0], pair[1]))
    return {
        "ours": statistics.median(a for a, _ in seconds),
        "theirs": statistics.median(b for _, b in seconds),
        "ratio": statistics.median(b / a for a, b in seconds),
    }


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
    """Write `benchmarks/results/NAME.json`."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
