"""How time and memory of the full-size encoder grow with the sound and with the batch: `python benchmarks/growth.py`.

Each case is a process of its own with random weights of the published size, in the default dtype: sounds of 5 s to an
hour from a WAV file in windows of 10 s, sounds of 5 s to 2 min as one window each, and 1 to 16 windows of 3.75 s at
once. Writes `benchmarks/results/growth.json` and `growth.png`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import wave
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.paired import RESULTS, in_child, machine, write_result  # noqa: E402

WINDOW = 10.0
WINDOWED = (5, 10, 30, 60, 300, 900, 3600)
WHOLE = (5, 10, 20, 30, 60, 120)
BATCHES = (1, 2, 4, 8, 16)


def measure(kind: str, folder: str, amount: int) -> dict[str, float]:
    """Seconds of one run of a case, after a short one that makes threads and kernels."""
    import numpy as np
    import torch

    from audio2img_core import AudioEncoder
    from audio2img_core.audio.io import stream_mono
    from audio2img_core.devices import encoder_dtype

    encoder = AudioEncoder.from_pretrained(folder, dtype=encoder_dtype(torch.device("cpu"), folder))
    noise = np.random.default_rng(0)
    encoder.encode(torch.from_numpy(noise.normal(0, 0.1, 16_000)).float(), 16_000)
    if kind == "windows":
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "sound.wav"
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, 44_100, 0, "NONE", ""))
                for _ in range(amount):
                    file.writeframes(noise.integers(-9000, 9000, 44_100, np.int16).tobytes())
            start = time.perf_counter()
            encoder.encode_stream(stream_mono(path), window=WINDOW)
            return {"seconds": time.perf_counter() - start}
    if kind == "whole":
        sounds, options = [noise.normal(0, 0.1, amount * 16_000)], {"window": float(amount)}
    else:
        sounds, options = noise.normal(0, 0.1, (amount, 60_000)), {"window": 3.75, "batch_size": amount}
    clips = [torch.from_numpy(sound).float() for sound in sounds]
    start = time.perf_counter()
    encoder.encode(clips, 16_000, **options)
    return {"seconds": time.perf_counter() - start}


def draw(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    kinds = {
        "windows": f"in windows of {WINDOW:g} s: seconds of sound",
        "whole": "as one window: seconds of sound",
        "batch": "windows of 3.75 s at once",
    }
    for column, (kind, label) in enumerate(kinds.items()):
        part = [row for row in rows if row["kind"] == kind]
        amounts = [row["amount"] for row in part]
        each = 3.75 if kind == "batch" else 1
        costs = [row["seconds"] / (row["amount"] * each) for row in part]
        for axis, values, name in (
            (axes[0, column], costs, "time / sound"),
            (axes[1, column], [row["peak"] / 1e9 for row in part], "peak memory, GB"),
        ):
            axis.plot(amounts, values, "o-")
            axis.set_xscale("log", base=2 if kind == "batch" else 10)
            axis.set_xticks(amounts, [str(amount) for amount in amounts])
            axis.minorticks_off()
            axis.set_ylim(0)
            axis.set_xlabel(label)
            axis.set_ylabel(name)
            axis.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--longest", type=int, default=3600, help="seconds of sound at most (default: %(default)s)")
    parser.add_argument("--measure", nargs=3, metavar=("KIND", "FOLDER", "AMOUNT"), help="one case")
    args = parser.parse_args()
    if args.measure:
        kind, folder, amount = args.measure
        print(json.dumps(measure(kind, folder, int(amount))))
        return
    from benchmarks.encode import save_random_weights

    rows = []
    print("| kind | amount | seconds | peak memory |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        save_random_weights(folder)
        for kind, amounts in (("windows", WINDOWED), ("whole", WHOLE), ("batch", BATCHES)):
            for amount in amounts:
                if amount <= args.longest:
                    rows.append({"kind": kind, "amount": amount})
                    rows[-1] |= in_child(__file__, "--measure", kind, folder, amount)
                    print(f"| {kind} | {amount} | {rows[-1]['seconds']:.2f} | {rows[-1]['peak'] / 1e9:.2f} GB |")
    write_result("growth", {"machine": machine(), "window": WINDOW, "rows": rows})
    draw(rows, RESULTS / "growth.png")


if __name__ == "__main__":
    main()
