"""Cutting a clip's mel frames into the windows that an encoder was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..audio.mel import FRAMES_PER_SECOND, MIN_FRAMES, STACK, normalize, normalize_level, stack_frames
from .bounds import MAX_WINDOW_SECONDS, check_number, shortened

NORMALIZE = ("clip", "window")
PADDING = ("mask", "repeat", "constant")


@dataclass(frozen=True)
class WindowConfig:
    """How a clip is cut and how short windows are filled.

    Attributes:
        seconds: Length of a window in seconds.
        hop_seconds: Distance between the starts of windows in seconds; null = seconds, side by side.
        normalize: Extent of the normalisation: "window", or the whole "clip" (the original project's recipe).
        dynamic_range: Range below the loudest bin that is kept, in nats, with all bins scaled alike; null = each bin
            by itself.
        padding: Filling of short windows: "mask" the rest, "repeat" the audio, or a visible "constant" (the original
            project's).
        pad_value: Value of padded frames.
    """

    seconds: float = 10.0
    hop_seconds: float | None = None
    normalize: str = "window"
    dynamic_range: float | None = None
    padding: str = "mask"
    pad_value: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("hop_seconds", self.hop)):
            check_number(value, f"window {name}", MIN_FRAMES / FRAMES_PER_SECOND, MAX_WINDOW_SECONDS)
        check_number(self.pad_value, "window pad_value", -1e6, 1e6)
        if self.dynamic_range is not None:
            check_number(self.dynamic_range, "window dynamic_range", 0.0, 1e6)
            if self.dynamic_range == 0:
                raise ValueError(f"window dynamic_range must be above 0, not {self.dynamic_range!r}")
            if self.normalize != "window":
                raise ValueError(f"window dynamic_range goes with normalize 'window', not {self.normalize!r}")
        for name, value, allowed in (
            ("normalize", self.normalize, NORMALIZE),
            ("padding", self.padding, PADDING),
        ):
            if value not in allowed:
                raise ValueError(f"window {name} must be one of {', '.join(allowed)}, not {shortened(value)}")

    @property
    def hop(self) -> float:
        """Seconds between window starts."""
        return self.seconds if self.hop_seconds is None else self.hop_seconds

    @property
    def size_frames(self) -> int:
        """Mel frames in a window, rounded up to whole stacked frames (3.75 s -> 376)."""
        return _frames(self.seconds)

    @property
    def hop_frames(self) -> int:
        """Mel frames between window starts, rounded up to whole stacked frames."""
        return _frames(self.hop)


class Window(NamedTuple):
    """One window: mel frames `start` to `start + length` of clip number `clip`."""

    clip: int
    start: int
    length: int


def plan_windows(frames: int, size: int, hop: int, *, clip: int = 0) -> list[Window]:
    """Windows of at most `size` frames every `hop` frames that cover `frames` frames.

    With hop = size every frame is in exactly one window; the last one may be shorter. Behind a whole window a tail of
    less than a twentieth of one is left out: it says nothing by itself, and a window of it would count like the others.

    Raises:
        ValueError: fewer than 2 frames, or size or hop below 2.
    """
    if frames < MIN_FRAMES or size < MIN_FRAMES or hop < MIN_FRAMES:
        raise ValueError(f"windows need at least {MIN_FRAMES} frames each: frames={frames}, size={size}, hop={hop}")
    windows: list[Window] = []
    shortest = max(MIN_FRAMES, size // 20)
    for start in range(0, frames, hop):
        length = min(size, frames - start)
        if not windows or length >= shortest:
            windows.append(Window(clip, start, length))
        if start + size >= frames:
            break
    return windows


def window_features(windows: list[Tensor], config: WindowConfig, *, size: int | None) -> tuple[Tensor, Tensor | None]:
    """Encoder inputs of windows of mel frames.

    Args:
        windows: tensors [n, 80] of mel frames on one device, n >= 2, normalised already where the config
            normalises by clip.
        config: normalisation and padding.
        size: mel frames that every window is filled to; None = the longest of them.

    Returns:
        input_features [B, F, 160] float32 and attention_mask [B, F] (None where every frame counts).
    """
    counts = torch.tensor([len(w) for w in windows], device=windows[0].device)
    if config.normalize == "window":
        padded = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True)
        if config.dynamic_range is None:
            padded = normalize(padded, counts)
        else:
            padded = normalize_level(padded, counts, config.dynamic_range)
        windows = [mel[:n] for mel, n in zip(padded, counts.tolist(), strict=True)]
    size = max(counts.tolist()) if size is None else size
    size += size % STACK
    if config.padding == "repeat":
        windows = [w[torch.arange(size, device=w.device) % len(w)] for w in windows]
        counts = torch.full_like(counts, size)
    batch = windows[0].new_full((len(windows), size, windows[0].shape[1]), config.pad_value)
    for row, window in zip(batch, windows, strict=True):
        row[: len(window)] = window
    features, mask = stack_frames(batch, counts, pad_value=config.pad_value)
    return features, None if config.padding != "mask" or bool(mask.all()) else mask


def _frames(seconds: float) -> int:
    frames = round(seconds * FRAMES_PER_SECOND)
    return frames + frames % STACK
