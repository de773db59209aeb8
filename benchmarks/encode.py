"""Time from waveform to tokens at full size, against transformers' own model: `python benchmarks/encode.py`.

The weights are random, of the published size (631 M parameters, with the first project's adapter), and the same in
both. transformers' side is what a user would write with it: `SeamlessM4TFeatureExtractor`, then `Wav2Vec2BertModel`,
eager attention, float32 on a CPU and bfloat16 on a GPU. Ours is `AudioEncoder.encode`, on a GPU also after
`encoder.compile(mode="reduce-overhead")`. Both go in turn in one process. `share` compares the operations a second of
the whole encoder with those of a large matrix product alone. Writes `benchmarks/results/encode.json`.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel  # noqa: E402

from audio2img_core import AudioEncoder  # noqa: E402
from audio2img_core.devices import encoder_dtype, resolve_device  # noqa: E402
from benchmarks.paired import in_child, machine, paired, seconds_of, write_result  # noqa: E402

ADAPTER = {"add_adapter": True, "num_adapter_layers": 2, "adapter_stride": 2, "adapter_kernel_size": 3}
WINDOW = 3.75
CASES = [(1, 3.75, None), (1, 10.0, None), (1, 30.0, None), (1, 30.0, WINDOW)]  # clips, seconds, window (None = whole)
GPU_CASES = [(16, 3.75, None), (16, 10.0, None), (16, 30.0, None)]


def save_random_weights(folder: str) -> None:
    """A plain `Wav2Vec2BertModel` folder of full size, as the first project's checkpoints.

    Made in a process of its own: the peak memory that the system tells of a child is at least its parent's.
    """
    in_child(__file__, "--weights", folder)


def _save_random_weights(folder: str) -> None:
    torch.manual_seed(0)
    Wav2Vec2BertModel(Wav2Vec2BertConfig(**ADAPTER, layerdrop=0.0)).eval().save_pretrained(folder)
    print("{}")


class Reference:
    """The tokens of a waveform by transformers alone, whole or window by window."""

    def __init__(self, folder: str, device: torch.device, dtype: torch.dtype):
        self.extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2, padding_value=1.0)
        model = Wav2Vec2BertModel.from_pretrained(folder, attn_implementation="eager", dtype=dtype)
        self.model, self.device, self.dtype = model.eval().to(device), device, dtype

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor, seconds: float) -> torch.Tensor:
        """Tokens of clips [B, T] in windows of so many seconds, all clips' window by window."""
        rows = [clip.numpy() for clip in clips]
        features = self.extractor(rows, sampling_rate=16_000, return_tensors="pt")["input_features"]
        features = features.to(self.device, self.dtype)
        size = -(-round(seconds * 100) // 2)
        parts = [features[:, i : i + size] for i in range(0, features.shape[1] - size // 20, size)]
        padded = [torch.nn.functional.pad(part, (0, 0, 0, size - part.shape[1]), value=1.0) for part in parts]
        return torch.cat([self.model(part).last_hidden_state.float() for part in padded])


def floating_point_operations(frames: int, windows: int) -> float:
    """Of the matrix products in the published model's 24 layers, for so many windows of so many frames."""
    width = 1024
    by_frame = 2 * 2 * 4 * width + 4 * width + 3 * width  # two feed-forwards, attention, convolutions: columns
    return windows * 24 * (2 * frames * width * by_frame + 4 * frames**2 * width)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of the feed-forward's matrix product alone, as torch does it here."""
    rows = 16_384 if device.type == "cuda" else 1500
    a = torch.randn(rows, 1024, device=device, dtype=dtype)
    weights = [torch.randn(4096, 1024, device=device, dtype=dtype) for _ in range(8)]
    run = lambda: [torch.nn.functional.linear(a, weight) for weight in weights]  # noqa: E731
    run()
    return 8 * 2 * rows * 1024 * 4096 / statistics.median(seconds_of(run) for _ in range(7))


def print_row(row: dict) -> None:
    cells = [row["clips"], row["seconds"], row["window"] or "one", row["dtype"] + ", compiled" * row["compiled"]]
    cells += [f"{row['theirs']:.4f} s", f"{row['ours']:.4f} s", f"{row['ratio']:.2f}x", f"{row['tflops']:.2f}"]
    cells.append("" if row["share"] is None else f"{row['share']:.0%}")
    print("|", *(f"{cell} |" for cell in [*cells, f"{row['cosine']:.5f}", f"{row['difference']:.1e}"]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs (default: %(default)s)")
    parser.add_argument("--weights", metavar="FOLDER", help="only write the random weights there")
    args = parser.parse_args()
    if args.weights:
        _save_random_weights(args.weights)
        return
    device = resolve_device(None)
    gpu = device.type == "cuda"
    result = {"machine": machine(), "device": str(device), "rows": []}
    sound = 0.1 * torch.randn(16, 30 * 16_000, generator=torch.Generator().manual_seed(1))
    print("| clips | seconds | windows | dtype | theirs | ours | ratio | TFLOP/s | share | least cosine | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        save_random_weights(folder)
        reference = Reference(folder, device, torch.bfloat16 if gpu else torch.float32)
        codes = [(torch.bfloat16, False), (torch.bfloat16, True)] if gpu else [(encoder_dtype(device, folder), False)]
        codes += [] if gpu else [(torch.float32, False), ("int8", False)]
        for dtype, compiled in dict.fromkeys(codes):
            encoder = AudioEncoder.from_pretrained(folder, dtype=dtype).to(device)
            rate = None if dtype == "int8" else product_rate(device, dtype)
            if compiled:
                encoder.compile(mode="reduce-overhead")
            for clips, seconds, window in CASES + GPU_CASES * gpu:
                part, size = sound[:clips, : int(seconds * 16_000)], window or seconds

                def ours(part=part, size=size, encoder=encoder, batch_size=None if window else clips):
                    return encoder.encode(part[:, None], 16_000, window=size, batch_size=batch_size).tokens

                def theirs(part=part, size=size):
                    return reference(part, size)

                start = time.perf_counter()
                a, b = ours().cpu(), theirs().cpu()
                row = {"clips": clips, "seconds": seconds, "window": window, "compiled": compiled}
                row |= {"dtype": str(dtype).removeprefix("torch."), "first_seconds": time.perf_counter() - start}
                row |= paired(ours, theirs, runs=args.runs)
                row["cosine"] = torch.cosine_similarity(a, b, dim=-1).min().item()
                row["difference"] = (a - b).abs().max().item()
                operations = floating_point_operations(-(-round(size * 100) // 2), clips * round(seconds / size))
                row["tflops"] = operations / row["ours"] / 1e12
                row["share"] = None if rate is None else operations / row["ours"] / rate
                result["rows"].append(row)
                print_row(row)
            del encoder
            gc.collect()
    write_result("encode", result)


if __name__ == "__main__":
    main()
