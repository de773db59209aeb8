"""Time of the log-mel front end against transformers' `SeamlessM4TFeatureExtractor`: `python benchmarks/log_mel.py`.

Eight clips of 10 s at once, as both take them, and one of 10 s; ten calls in a turn. The extractor runs on the CPU,
ours on the GPU where there is one. Writes `benchmarks/results/log_mel.json`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from audio2img_core import log_mel  # noqa: E402
from audio2img_core.devices import resolve_device  # noqa: E402
from benchmarks.paired import machine, paired, write_result  # noqa: E402

CALLS = 10  # in a turn, as threads that were asleep take a while to wake


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9, help="pairs of runs (default: %(default)s)")
    args = parser.parse_args()
    from transformers import SeamlessM4TFeatureExtractor

    device = resolve_device(None)
    extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2, padding_value=1.0)
    result = {"machine": machine(), "rows": []}
    print("| clips of 10 s | extractor | ours | ratio | largest difference |\n| --- | --- | --- | --- | --- |")
    for count in (1, 8):
        clips = 0.1 * torch.randn(count, 160_000, generator=torch.Generator().manual_seed(0))
        lists = [clip.numpy() for clip in clips]

        def theirs(lists=lists, calls=CALLS):
            for _ in range(calls):
                features = extractor(lists, sampling_rate=16_000, return_tensors="pt")["input_features"]
            return features

        clips = clips.to(device)

        def ours(clips=clips, calls=CALLS):
            for _ in range(calls):
                features = log_mel(clips, pad_value=1.0)[0]
            return features

        row = {"clips": count, **paired(ours, theirs, runs=args.runs)}
        row |= {code: row[code] / CALLS for code in ("ours", "theirs")}
        row["difference"] = (ours() - theirs().to(device)).abs().max().item()
        result["rows"].append(row)
        print(
            f"| {count} | {1000 * row['theirs']:.0f} ms | {1000 * row['ours']:.1f} ms | {row['ratio']:.1f}x "
            f"| {row['difference']:.1e} |"
        )
    write_result("log_mel", result)


if __name__ == "__main__":
    main()
