"""Writing a waveform as FLAC."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from audio2img_core.audio.io import SAMPLE_RATE
from audio2img_core.storage.files import whole_file


def flac_bytes(waveform: Tensor) -> bytes:
    """[T] float in -1..1, 16 kHz, as mono FLAC of 16 bits."""
    samples = (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()[None]
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def write_flac(path: Path, waveform: Tensor) -> None:
    """Write `flac_bytes`; the file is there when it is whole."""
    with whole_file(path) as partial:
        partial.write_bytes(flac_bytes(waveform))
