"""What the pack costs ComfyUI at its start, and a part of a long file: `python benchmarks/startup.py`.

The pack is imported as ComfyUI imports it, in processes of their own that have imported torch already, as ComfyUI has;
the file is 3 hours of FLAC, of which the last 10 s are decoded, against decoding it all. Writes
`benchmarks/results/startup.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.paired import machine, paired, write_result  # noqa: E402

HEAVY = ("transformers", "diffusers", "accelerate")
IMPORT = f"""
import importlib.util, json, sys, time
import torch
root = {str(ROOT)!r}
start = time.perf_counter()
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
seconds = time.perf_counter() - start
print(json.dumps({{"seconds": seconds, "nodes": len(module.NODE_CLASS_MAPPINGS),
                  "heavy": [name for name in {HEAVY!r} if name in sys.modules]}}))
"""


def import_pack() -> dict:
    done = subprocess.run([sys.executable, "-c", IMPORT], check=True, stdout=subprocess.PIPE, text=True, cwd="/")
    return json.loads(done.stdout)


def write_long(path: Path, hours: float) -> None:
    import av
    import numpy as np

    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=44_100, layout="mono")
        for _ in range(int(hours * 3600)):
            samples = noise.integers(-9000, 9000, (1, 44_100), np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = 44_100
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--hours", type=float, default=3.0, help="of the file (default: %(default)s)")
    args = parser.parse_args()
    from audio2img_core.audio.io import load_audio

    imports = [import_pack() for _ in range(args.runs)]
    pack = {**imports[0], "seconds": statistics.median(run["seconds"] for run in imports)}
    print(f"the pack's {pack['nodes']} nodes: {pack['seconds']:.3f} s beyond torch; imported besides: {pack['heavy']}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.flac"
        write_long(path, args.hours)
        start = args.hours * 3600 - 10
        row = paired(
            lambda: load_audio(path, start=start, sample_rate=None),
            lambda: load_audio(path, sample_rate=None),
            runs=1,
        )
    print(
        f"the last 10 s of {args.hours:g} h: {row['ours']:.3f} s, all of it {row['theirs']:.1f} s: {row['ratio']:.0f}x"
    )
    write_result("startup", {"machine": machine(), "pack": pack, "hours": args.hours, "decode": row})


if __name__ == "__main__":
    main()
