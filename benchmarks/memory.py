"""Peak memory of a process that encodes 30 s at full size, and time to load the weights: `python benchmarks/memory.py`.

Each is a process of its own that loads a folder of random weights of the published size (631 M parameters, stored in
float32) and reads each weight once, as transformers maps the file and reads nothing until then. One loads with
transformers' `Wav2Vec2BertModel.from_pretrained` as it is (float32, eager attention), the others with
`AudioEncoder.from_pretrained` in its default dtype and in float32. Writes `benchmarks/results/memory.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.paired import in_child, machine, write_result  # noqa: E402

SECONDS = 30


def measure(code: str, folder: str, seconds: float) -> dict[str, float]:
    """Load, then encode so many seconds in one window (0 = load only)."""
    import torch

    from audio2img_core import AudioEncoder
    from audio2img_core.devices import encoder_dtype
    from benchmarks.encode import Reference

    cpu = torch.device("cpu")
    sound = 0.1 * torch.randn(max(int(seconds * 16_000), 1), generator=torch.Generator().manual_seed(1))
    start = time.perf_counter()
    if code == "transformers":
        model = Reference(folder, cpu, torch.float32)
    else:
        dtype = encoder_dtype(cpu, folder) if code == "default" else torch.float32
        model = AudioEncoder.from_pretrained(folder, dtype=dtype)
    loaded = time.perf_counter() - start
    weights = model.model if code == "transformers" else model
    for weight in weights.parameters():
        weight.detach().flatten()[:: 4096 // weight.itemsize].sum()  # a number of each page
    ready = time.perf_counter() - start
    if seconds:
        model(sound[None], seconds) if code == "transformers" else model.encode(sound, 16_000, window=seconds)
    return {"load_seconds": loaded, "ready_seconds": ready}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="loads of each (default: %(default)s)")
    parser.add_argument("--measure", nargs=3, metavar=("CODE", "FOLDER", "SECONDS"), help="one case")
    args = parser.parse_args()
    if args.measure:
        code, folder, seconds = args.measure
        print(json.dumps(measure(code, folder, float(seconds))))
        return
    from benchmarks.encode import save_random_weights

    result = {"machine": machine(), "seconds": SECONDS, "rows": []}
    codes = ("transformers", "default", "float32")
    with tempfile.TemporaryDirectory() as folder:
        save_random_weights(folder)
        loads = [[in_child(__file__, "--measure", code, folder, 0) for code in codes] for _ in range(args.runs)]
        rows = [in_child(__file__, "--measure", code, folder, SECONDS) for code in codes]
    print(
        f"| code | peak memory, {SECONDS} s | against transformers | loaded | weights read | against transformers "
        "| peak of the load |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for number, code in enumerate(codes):
        loaded, ready = (
            statistics.median(run[number][f"{name}_seconds"] for run in loads) for name in ("load", "ready")
        )
        ratio = statistics.median(run[0]["ready_seconds"] / run[number]["ready_seconds"] for run in loads)
        row = {
            "code": code,
            "peak": rows[number]["peak"],
            "share": rows[number]["peak"] / rows[0]["peak"],
            "load_seconds": loaded,
            "ready_seconds": ready,
            "ready_ratio": ratio,
            "load_peak": loads[0][number]["peak"],
        }
        result["rows"].append(row)
        print(
            f"| {code} | {row['peak'] / 1e9:.2f} GB | {row['share']:.2f}x | {loaded:.2f} s | {ready:.2f} s "
            f"| {ratio:.1f}x | {row['load_peak'] / 1e9:.2f} GB |"
        )
    write_result("memory", result)


if __name__ == "__main__":
    main()
