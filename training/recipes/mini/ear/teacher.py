"""The teacher: EfficientAT's mn04, a tagger of AudioSet's 527 classes, in plain torch.

Schmid, Koutini, Widmer, "Efficient large-scale audio tagging via Transformer-to-CNN knowledge distillation", ICASSP
2023 (MIT licence). The network is MobileNetV3-Large (arXiv:1905.02244, table 1) at width 0.4 on one input channel. The
weights are not part of this repository: `python -m training.recipes.mini.ear.teacher --help` says where they are from.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from audio2img_core import load_audio

RATE = 32_000  # Hz
EMBEDDING_DIM = 384
SHA256 = "b6b08b4b2628da7df721a76be50e70282de06eaf3f46ad75071dee182e35cf87"
"""Of `mn04.safetensors`, the tensors of EfficientAT's release file `mn04_as_mAP_432.pt` under their own names."""
CLASSES = Path(__file__).with_name("audioset.csv")

_FFT, _WINDOW, _HOP, _MELS = 1024, 800, 320, 128
_MAX_HZ = 15_000.0
_CACHED_FRAMES = 256
_BATCH_NORM_EPS = 1e-3
# (stride, hardswish) of the 15 blocks; all else the weights' shapes tell.
_BLOCKS = (
    *((1, False), (2, False), (1, False), (2, False), (1, False), (1, False)),
    *((2, True), (1, True), (1, True), (1, True), (1, True), (1, True), (2, True), (1, True), (1, True)),
)


class Heard(NamedTuple):
    """What the teacher makes of a batch."""

    logits: Tensor  # [B, 527]; their sigmoid is a class's probability
    embedding: Tensor  # [B, 384], the mean of `frames` over time
    frames: Tensor  # [B, n, 384], about 3.1 a second


class Teacher(nn.Module):
    """mn04 with its front end, frozen.

    Args:
        weights: tensors under upstream's names. Batch norms are folded into the convolutions.

    Raises:
        ValueError: a tensor is missing or left over.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        left = {name: tensor.float() for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
        try:
            self.stem = _folded(left, "features.0", stride=2)
            self.blocks = nn.ModuleList(
                _Block(left, f"features.{i}.block", stride, act) for i, (stride, act) in enumerate(_BLOCKS, 1)
            )
            self.last = _folded(left, "features.16")
            self.hidden, self.out = _linear(left, "classifier.2"), _linear(left, "classifier.5")
        except KeyError as error:
            raise ValueError(f"the teacher's weights lack {error}") from error
        if left:
            raise ValueError(f"the teacher's weights hold unknown tensors: {', '.join(sorted(left)[:3])}")
        self.eval().requires_grad_(False)

    def forward(self, waveform: Tensor) -> Heard:
        """Tag clips: [B, T] float in -1..1 at 32 kHz -> logits, embedding and frames."""
        return self.from_mel(teacher_mel(waveform))

    def from_mel(self, mel: Tensor) -> Heard:
        """Tag the front end's output, [B, 128, frames]."""
        x = F.hardswish(self.stem(mel[:, None]))
        for block in self.blocks:
            x = block(x)
        frames = F.hardswish(self.last(x)).mean(2).transpose(1, 2).float()
        embedding = frames.mean(1)
        return Heard(self.classify(embedding), embedding, frames)

    def classify(self, embedding: Tensor) -> Tensor:
        """Logits [B, 527] of an embedding [B, 384]."""
        return self.out(F.hardswish(self.hidden(embedding)))


class _Block(nn.Module):
    """An inverted residual: expand, depthwise, weigh the channels, project."""

    def __init__(self, weights: dict[str, Tensor], name: str, stride: int, hardswish: bool) -> None:
        super().__init__()
        self.act = F.hardswish if hardswish else F.relu
        parts = sorted({key[len(name) + 1 :].split(".")[0] for key in weights if key.startswith(f"{name}.")})
        depthwise = next(part for part in parts if _conv(weights, f"{name}.{part}").shape[1] == 1)
        squeeze = [part for part in parts if f"{name}.{part}.conc_se_layers.0.fc1.weight" in weights]
        # Features 1 has a depthwise convolution first: its block expands nothing.
        self.expand = _folded(weights, f"{name}.0") if depthwise != "0" else None
        self.depthwise = _folded(weights, f"{name}.{depthwise}", stride=stride)
        self.squeeze = nn.ModuleList(
            _linear(weights, f"{name}.{part}.conc_se_layers.0.{fc}") for part in squeeze for fc in ("fc1", "fc2")
        )
        self.project = _folded(weights, f"{name}.{parts[-1]}")
        first = self.expand or self.depthwise
        self.residual = stride == 1 and first.in_channels == self.project.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.act(self.expand(x))
        y = self.act(self.depthwise(y))
        if len(self.squeeze):
            down, up = self.squeeze
            y = y * up(F.relu(down(y.mean((2, 3))))).sigmoid()[:, :, None, None]
        y = self.project(y)
        return x + y if self.residual else y


def teacher_mel(waveform: Tensor) -> Tensor:
    """The front end of EfficientAT at inference: [B, T] at 32 kHz -> [B, 128, 1 + (T - 1) // 320].

    Pre-emphasis 0.97, power spectrum of 25 ms every 10 ms, 128 Kaldi mel triangles up to 15 kHz, logarithm.
    """
    window, filters = _constants(waveform.device)
    emphasised = waveform[:, 1:] - 0.97 * waveform[:, :-1]
    # torch.stft's centred frames, of which the window covers the middle 800 samples; sooner on a CPU in small blocks.
    side = _FFT // 2 - (_FFT - _WINDOW) // 2
    padded = F.pad(emphasised[:, None], (side, side), mode="reflect")[:, 0]
    frames = padded.unfold(1, _WINDOW, _HOP)[:, : 1 + emphasised.shape[1] // _HOP]
    block = max(1, _CACHED_FRAMES // len(waveform)) if waveform.device.type == "cpu" else max(1, frames.shape[1])
    mel = waveform.new_empty(len(waveform), frames.shape[1], _MELS)
    for i in range(0, frames.shape[1], block):
        spectrum = torch.fft.rfft(frames[:, i : i + block] * window, n=_FFT)
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        with torch.autocast(power.device.type, enabled=False):
            mel[:, i : i + block] = power @ filters
    return ((mel + 1e-5).log().transpose(1, 2) + 4.5) / 5.0


def load_teacher(path: str | os.PathLike[str], *, sha256: str | None = SHA256) -> Teacher:
    """Load the teacher.

    Args:
        path: `mn04.safetensors`.
        sha256: what the file's hash must be; None = any.

    Raises:
        FileNotFoundError: nothing there. ValueError: another file's content.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the teacher is EfficientAT's mn04_as as safetensors")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 is not None and found != sha256:
        raise ValueError(f"{path}: sha256 is {found}; expected {sha256}")
    return Teacher(load_file(path))


def class_names() -> list[str]:
    """The 527 class names of AudioSet in the order of the logits."""
    with CLASSES.open(newline="", encoding="utf-8") as file:
        return [row["display_name"] for row in csv.DictReader(file)]


def _conv(weights: dict[str, Tensor], name: str) -> Tensor:
    """The convolution's weight of a part; of a squeeze-and-excitation, which has none, one that is not depthwise."""
    return weights.get(f"{name}.0.weight", torch.empty(0, 2))


def _folded(weights: dict[str, Tensor], name: str, *, stride: int = 1) -> nn.Conv2d:
    """A convolution with its batch norm folded in; takes its tensors out of `weights`."""
    kernel = weights.pop(f"{name}.0.weight")
    scale, shift, mean, variance = (
        weights.pop(f"{name}.1.{part}") for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / (variance + _BATCH_NORM_EPS).sqrt()
    channels, inner, size, _ = kernel.shape
    groups = channels if inner == 1 and size > 1 and name != "features.0" else 1
    conv = nn.Conv2d(inner * groups, channels, size, stride, (size - 1) // 2, groups=groups)
    conv.load_state_dict({"weight": kernel * scale[:, None, None, None], "bias": shift - mean * scale})
    return conv


def _linear(weights: dict[str, Tensor], name: str) -> nn.Linear:
    weight, bias = weights.pop(f"{name}.weight"), weights.pop(f"{name}.bias")
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": bias})
    return linear


@functools.lru_cache(maxsize=4)
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Window [800] and mel filters [513, 128]: triangles that are straight on Kaldi's mel scale."""

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    hz = torch.arange(_FFT // 2 + 1, dtype=torch.float64) * RATE / _FFT
    edges = torch.linspace(0.0, float(mel(torch.tensor(_MAX_HZ, dtype=torch.float64))), _MELS + 2, dtype=torch.float64)
    left, centre, right = (edges[i : _MELS + i, None] for i in range(3))
    rising, falling = (mel(hz) - left) / (centre - left), (right - mel(hz)) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[:, -1] = 0.0  # Kaldi leaves out the bin at half the sample rate
    window = torch.hann_window(_WINDOW, periodic=False, dtype=torch.float64)
    return window.float().to(device), filters.T.float().contiguous().to(device)


def main(argv: list[str] | None = None) -> int:
    """Name what the teacher hears in files."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.mini.ear.teacher",
        description="Print the teacher's five most probable AudioSet classes for audio files. The weights are "
        "EfficientAT's release file mn04_as_mAP_432.pt (GitHub fschmid56/EfficientAT), saved as safetensors.",
    )
    parser.add_argument("--teacher", required=True, help="path of mn04.safetensors")
    parser.add_argument("files", nargs="+", help="audio files, of which the first 10 s count")
    options = parser.parse_args(argv)
    try:
        teacher, names = load_teacher(options.teacher), class_names()
        for file in options.files:
            waveform, _ = load_audio(file, duration=10.0, sample_rate=RATE)
            mono = waveform.mean(0, keepdim=True)
            with torch.no_grad():
                best = teacher(mono * (0.9 / mono.abs().max().clamp_min(1e-6))).logits[0].sigmoid().topk(5)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            print(f"{file}: " + ", ".join(f"{names[i]} {value:.0%}" for i, value in pairs))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
