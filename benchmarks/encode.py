"""Time from waveform to tokens at full size, against transformers' own model: `python benchmarks/encode.py`.

The weights are random, of the published size (631 M parameters, with the first project's adapter), and the same in
both. transformers' side is what a user would write with it: `SeamlessM4TFeatureExtractor`, then `Wav2Vec2BertModel`,
float32, eager attention. Ours is `AudioEncoder.encode`. Both go in turn in one process. Writes
`benchmarks/results/encode.json`.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel  # noqa: E402

from audio2img_core import AudioEncoder  # noqa: E402
from audio2img_core.devices import encoder_dtype, resolve_device  # noqa: E402
from benchmarks.paired import machine, paired, write_result  # noqa: E402

ADAPTER = {"add_adapter": True, "num_adapter_layers": 2, "adapter_stride": 2, "adapter_kernel_size": 3}
WINDOW = 3.75


def save_random_weights(folder: str) -> None:
    """A plain `Wav2Vec2BertModel` folder of full size, as the first project's checkpoints."""
    torch.manual_seed(0)
    Wav2Vec2BertModel(Wav2Vec2BertConfig(**ADAPTER, layerdrop=0.0)).eval().save_pretrained(folder)


class Reference:
    """The tokens of a waveform by transformers alone, whole or window by window."""

    def __init__(self, folder: str, device: torch.device, dtype: torch.dtype):
        self.extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2, padding_value=1.0)
        model = Wav2Vec2BertModel.from_pretrained(folder, attn_implementation="eager", dtype=dtype)
        self.model, self.device, self.dtype = model.eval().to(device), device, dtype

    @torch.no_grad()
    def __call__(self, waveform: torch.Tensor, seconds: float) -> torch.Tensor:
        features = self.extractor([waveform.numpy()], sampling_rate=16_000, return_tensors="pt")["input_features"]
        features = features.to(self.device, self.dtype)
        size = -(-round(seconds * 100) // 2)
        parts = [features[:, i : i + size] for i in range(0, features.shape[1] - size // 20, size)]
        padded = [torch.nn.functional.pad(part, (0, 0, 0, size - part.shape[1]), value=1.0) for part in parts]
        return torch.cat([self.model(part).last_hidden_state.float() for part in padded])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs (default: %(default)s)")
    args = parser.parse_args()
    device = resolve_device(None)
    result = {"machine": machine(), "device": str(device), "rows": []}
    sound = 0.1 * torch.randn(30 * 16_000, generator=torch.Generator().manual_seed(1))
    print("| seconds | windows | dtype | transformers | ours | ratio | least cosine | largest difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        save_random_weights(folder)
        reference = Reference(folder, device, torch.float32 if device.type == "cpu" else torch.bfloat16)
        for dtype in dict.fromkeys([encoder_dtype(device, folder), torch.float32, "int8"]):
            encoder = AudioEncoder.from_pretrained(folder, dtype=dtype).to(device)
            for seconds, window in ((3.75, None), (10.0, None), (30.0, None), (30.0, WINDOW)):
                part = sound[: int(seconds * 16_000)]

                def ours(part=part, seconds=seconds, window=window, encoder=encoder):
                    return encoder.encode(part, 16_000, window=window or seconds).tokens

                def theirs(part=part, seconds=seconds, window=window):
                    return reference(part, window or seconds)

                row = {"seconds": seconds, "window": window, "dtype": str(dtype).removeprefix("torch.")}
                row |= paired(ours, theirs, runs=args.runs)
                a, b = ours().cpu(), theirs().cpu()
                row["cosine"] = torch.cosine_similarity(a, b, dim=-1).min().item()
                row["difference"] = (a - b).abs().max().item()
                result["rows"].append(row)
                print(
                    f"| {seconds} | {'one' if window is None else window} | {row['dtype']} | {row['theirs']:.2f} s "
                    f"| {row['ours']:.2f} s | {row['ratio']:.2f}x | {row['cosine']:.5f} | {row['difference']:.1e} |",
                    flush=True,
                )
            del encoder
            gc.collect()
    write_result("encode", result)


if __name__ == "__main__":
    main()
