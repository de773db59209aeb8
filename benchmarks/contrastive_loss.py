"""Time and memory of the sequence-level contrastive loss, of the original project and of `training.loss.contrastive`.

    python benchmarks/contrastive_loss.py

Forward and backward pass on the CPU, float32, tokens of 47 x 1024, each in a process of its own. Memory is how far the
process grows beyond what it holds once the tokens are made. Results go to `benchmarks/results/contrastive_loss.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.paired import cpu_name  # noqa: E402

TEMPERATURE = 0.15
LARGE = 1024  # clips: of the original project's loss, which grows with the square, no machine has the memory


def seed_loss(audio, text):
    """The original project's: a tensor of all pairs, positions and channels."""
    import torch
    import torch.nn.functional as F

    cos = torch.cosine_similarity(audio.unsqueeze(1), text.unsqueeze(0), dim=-1) / TEMPERATURE
    labels = torch.arange(len(audio))[:, None].repeat(1, audio.shape[1])
    return F.cross_entropy(cos, labels)


def our_loss(audio, text):
    from training.loss.contrastive import sequence_contrastive

    return sequence_contrastive(audio, text, temperature=TEMPERATURE)


LOSSES = {"seed": seed_loss, "ours": our_loss}


def memory() -> tuple[int, int]:
    """Bytes held by this process: now (where the system does not tell, the peak) and at the peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    statm = Path("/proc/self/statm")
    now = int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else peak
    return now, peak


def measure(name: str, batch: int, tokens: int, width: int, repeats: int) -> dict:
    """Run in a process of its own: seconds (median of repeats after the first, or of the only run) and growth."""
    import torch

    torch.manual_seed(0)
    warm = torch.randn(64, 64, requires_grad=True)
    (warm @ warm).sum().backward()  # threads and kernels are made before memory is looked at
    audio = torch.randn(batch, tokens, width, requires_grad=True)
    text = torch.randn(batch, tokens, width)
    before, _ = memory()
    seconds = []
    for _ in range(repeats):
        audio.grad = None
        start = time.perf_counter()
        loss = LOSSES[name](audio, text)
        loss.backward()
        seconds.append(time.perf_counter() - start)
    return {
        "loss": loss.item(),
        "seconds": statistics.median(seconds[1:] or seconds),
        "runs": len(seconds),
        "bytes": memory()[1] - before,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def in_child(name: str, batch: int, tokens: int, width: int, repeats: int) -> dict:
    values = [str(value) for value in (batch, tokens, width, repeats)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--measure", name, *values]
    return json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="clips in the comparison (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=47, help="tokens of a clip (default: %(default)s)")
    parser.add_argument("--width", type=int, default=1024, help="channels of a token (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="runs of ours (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "contrastive_loss.json")
    parser.add_argument("--measure", nargs=5, metavar=("LOSS", "BATCH", "TOKENS", "WIDTH", "REPEATS"), help="one case")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], *map(int, args.measure[1:]))))
        return

    cases = [("seed", args.batch, 1), ("ours", args.batch, args.repeats), ("ours", 2 * args.batch, args.repeats)]
    cases.append(("ours", LARGE, 1))
    load = os.getloadavg()[0]
    rows = [
        {"code": name, "batch": batch, **in_child(name, batch, args.tokens, args.width, repeats)}
        for name, batch, repeats in cases
    ]
    machine = {"torch": rows[0]["torch"], "threads": rows[0]["threads"], "cpu": cpu_name(), "load_before": load}
    for row in rows:
        del row["torch"], row["threads"]
    seed, ours = rows[:2]
    ratios = {"time": seed["seconds"] / ours["seconds"], "memory": seed["bytes"] / max(1, ours["bytes"])}

    print(f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, load before {load:.1f}")
    print(f"forward and backward, tokens of {args.tokens} x {args.width}\n")
    print("| code | batch | seconds | growth of memory | loss |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        growth = f"{row['bytes'] / 1e6:.0f} MB"
        print(f"| {row['code']} | {row['batch']} | {row['seconds']:.4f} | {growth} | {row['loss']:.6f} |")
    print(f"\nat batch {args.batch}: {ratios['time']:.0f}x faster, {ratios['memory']:.0f}x smaller")

    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine, "tokens": args.tokens, "width": args.width, "rows": rows, "ratios": ratios}
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
