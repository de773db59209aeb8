"""From 64 sound files to embeddings at full size, against the first project's way: `python benchmarks/bulk.py`.

Theirs goes file by file: librosa to 16 kHz, `SeamlessM4TFeatureExtractor`, transformers' model in float32. Ours is what
`audio2img encode` does: `stream_mono` and `AudioEncoder.encode_stream`, with what is written left out. The files are
stereo FLAC at 44.1 kHz of 3.75 s; the weights are random, of the published size. Needs librosa. Writes
`benchmarks/results/bulk.json`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from audio2img_core import AudioEncoder  # noqa: E402
from audio2img_core.audio.io import stream_mono  # noqa: E402
from audio2img_core.devices import encoder_dtype  # noqa: E402
from benchmarks.encode import Reference, save_random_weights  # noqa: E402
from benchmarks.generated import noise, write_audio  # noqa: E402
from benchmarks.paired import machine, paired, write_result  # noqa: E402

SECONDS, RATE = 3.75, 44_100


def main() -> None:
    import librosa

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="pairs of runs over all files (default: %(default)s)")
    args = parser.parse_args()
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        save_random_weights(folder)
        files = [
            write_audio(Path(folder) / f"{i}.flac", noise(2 * SECONDS, RATE, i).reshape(2, -1), RATE)
            for i in range(args.files)
        ]
        encoder = AudioEncoder.from_pretrained(folder, dtype=encoder_dtype(cpu, folder))
        reference = Reference(folder, cpu, torch.float32)

        def theirs(files=files):
            return [reference(torch.from_numpy(librosa.load(file, sr=16_000)[0])[None], 3.75) for file in files]

        def ours(files=files):
            return [encoder.encode_stream(stream_mono(file)).tokens for file in files]

        ours(files[:1]), theirs(files[:1])
        row = paired(ours, theirs, runs=args.runs, warm=False)
        cosine = torch.cosine_similarity(ours(files[:1])[0], theirs(files[:1])[0], dim=-1).min().item()
    print(
        "| files of 3.75 s | librosa and transformers | ours | ratio | least cosine |\n| --- | --- | --- | --- | --- |"
    )
    print(f"| {args.files} | {row['theirs']:.1f} s | {row['ours']:.1f} s | {row['ratio']:.1f}x | {cosine:.4f} |")
    write_result("bulk", {"machine": machine(), "files": args.files, "runs": args.runs, **row, "cosine": cosine})


if __name__ == "__main__":
    main()
