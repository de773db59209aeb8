"""Generated audio and audio files, for the benchmarks and the tests."""

from __future__ import annotations

import math
import os
import pathlib
from fractions import Fraction

import av
import numpy as np
import torch
from torch import Tensor

_CODECS = {
    ".wav": "pcm_s16le",
    ".flac": "flac",
    ".mp3": "mp3",
    ".ogg": "vorbis",
    ".opus": "libopus",
    ".m4a": "aac",
    ".mp4": "aac",
    ".mkv": "aac",
    ".webm": "libopus",
}
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1", 16: "hexadecagonal"}
_VIDEO = {".mp4": "mpeg4", ".mkv": "mpeg4", ".webm": "libvpx"}


def sine(seconds: float, rate: int = 16_000, freq: float = 440.0) -> Tensor:
    """[T] float32, amplitude 0.5."""
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (0.5 * torch.sin(2 * math.pi * freq * time)).float()


def noise(seconds: float, rate: int = 16_000, seed: int = 0) -> Tensor:
    """[T] float32, white, standard deviation 0.1."""
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(round(seconds * rate), generator=generator)


def write_silence(path: str | os.PathLike, seconds: float, rate: int = 48_000) -> pathlib.Path:
    """A mono FLAC of silence in as few bytes as there can be: 15 for each 65,535 samples."""
    samples, most = round(seconds * rate), 0xFFFF
    info = (rate << 44) | (15 << 36) | samples  # one channel, 16 bits
    head = b"fLaC\x80\x00\x00\x22" + bytes([0xFF, 0xFF] * 2) + bytes(6) + info.to_bytes(8, "big") + bytes(16)
    with open(path, "wb") as file:
        file.write(head)
        for number, begin in enumerate(range(0, samples, most)):
            size = min(most, samples - begin)
            # A letter's UTF-8 is how FLAC writes its frames' numbers; surrogates are no letters, yet numbers.
            name = chr(number).encode("utf-8", "surrogatepass")
            frame = b"\xff\xf8\x70\x08" + name + (size - 1).to_bytes(2, "big")
            frame += bytes([_crc(frame, 8, 0x07)]) + bytes(3)
            file.write(frame + _crc(frame, 16, 0x8005).to_bytes(2, "big"))
    return pathlib.Path(path)


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
    return value


def write_audio(
    path: str | os.PathLike,
    waveform: Tensor,
    rate: int,
    codec: str | None = None,
    *,
    video: bool = False,
    options: dict[str, str] | None = None,
) -> pathlib.Path:
    """Write [T] or [C, T] float in -1..1; the suffix decides the container, and the codec if None.

    FFmpeg's own Vorbis encoder (.ogg) is rough and stereo only: a single channel is written twice. Opus
    (.opus, .webm) takes 8, 12, 16, 24 and 48 kHz and is always read back at 48. `video` adds a small moving
    picture (mp4, mkv, webm). `options` go to the container.
    """
    path = pathlib.Path(path)
    samples = np.atleast_2d(waveform.detach().cpu().numpy().astype(np.float32))
    codec = codec or _CODECS[path.suffix]
    if codec == "vorbis" and len(samples) == 1:
        samples = samples.repeat(2, axis=0)
    with (
        open(path, "wb") as file,
        av.open(file, "w", format=_format(path), options=options or {}) as container,
    ):
        layout = _LAYOUTS.get(len(samples), f"{len(samples)}c")
        # FFmpeg's own vorbis encoder counts as experimental.
        more = {"mapping_family": "255"} if codec == "libopus" and len(samples) > 2 else {}  # channels as they are
        stream = container.add_stream(codec, rate=rate, layout=layout, options={"strict": "experimental", **more})
        picture = container.add_stream(_VIDEO[path.suffix], rate=10) if video else None
        stream.bit_rate = 64_000 * len(samples)
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
        size = stream.codec_context.frame_size or 4096
        pictures = 0
        for begin in range(0, samples.shape[1], size):
            while picture is not None and pictures * rate < begin * 10:
                _encode_picture(container, picture, pictures)
                pictures += 1
            frame = _frame(samples[:, begin : begin + size], stream, rate)
            frame.pts, frame.time_base = begin, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if picture is not None:
            container.mux(picture.encode(None))
    return path


def _format(path: pathlib.Path) -> str:
    return {".m4a": "ipod", ".mkv": "matroska"}.get(path.suffix, path.suffix[1:])


def _frame(samples: np.ndarray, stream: av.AudioStream, rate: int) -> av.AudioFrame:
    """[C, T] float as a frame in the sample format of the encoder."""
    name = stream.codec_context.format.name
    kind = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}[name.rstrip("p")]
    if kind == np.uint8:
        samples = np.clip(np.round(samples * 128.0) + 128, 0, 255)
    elif np.issubdtype(kind, np.integer):
        full = 2.0 ** (8 * np.dtype(kind).itemsize - 1)
        samples = np.clip(np.round(samples * full), -full, full - 1)
    samples = samples.astype(kind)
    if len(samples) > 7:
        name = name.rstrip("p")  # PyAV writes no more than 7 channels one by one; the encoder takes them apart
    if not name.endswith("p"):
        samples = samples.T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=name, layout=stream.layout.name)
    frame.sample_rate = rate
    return frame


def _encode_picture(container: av.container.OutputContainer, stream: av.VideoStream, index: int) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, index % 64] = 255
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    frame.pts, frame.time_base = index, Fraction(1, 10)
    container.mux(stream.encode(frame))
