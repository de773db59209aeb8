"""Films: pictures one after the other, with their sound."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
from PIL import Image
from torch import Tensor

from ..encoder.embeddings import AudioEmbeddings
from ..storage.files import whole_file

if TYPE_CHECKING:
    from .pipeline import AudioToImagePipeline
    from .settings import GenerationSettings

_QUALITY = "18"  # x264's constant rate factor: hardly to be told from the pictures
_RATES = (8000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # that AAC takes everywhere


def draw_frames(
    pipeline: AudioToImagePipeline,
    heard: AudioEmbeddings,
    settings: GenerationSettings,
    *,
    batch_size: int = 4,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[Image.Image]:
    """Generate an image for each row of a schedule, when it is asked for.

    Args:
        pipeline: Pipeline that generates.
        heard: Rows as `schedule.schedule` gives them.
        settings: How to generate. The seed is that of every image, so that the sound alone changes them.
        batch_size: Number of images generated at once.
        on_step: Called as on_step(images done, images in all).

    Raises:
        ValueError: The models cannot do what the settings say.
    """
    settings = pipeline.complete(replace(settings, windows="keep", count=1))
    rows = len(heard.tokens)
    for first in range(0, rows, batch_size):
        yield from pipeline(heard.rows(first, first + batch_size), settings).images
        if on_step is not None:
            on_step(min(first + batch_size, rows), rows)


def write_film(
    path: str | os.PathLike[str],
    images: Iterable[Image.Image],
    *,
    fps: float,
    waveform: Tensor | None = None,
    sample_rate: int = 48_000,
) -> int:
    """Write an MP4 of H.264 and AAC; the file is there when it is whole.

    Args:
        path: of the file, `.mp4`.
        images: of one size; an odd last column or row is left out (H.264 halves the colours).
        fps: pictures a second.
        waveform: [C, T] float in -1..1, the sound beside them; None = a silent film.
        sample_rate: of the sound; one that AAC does not know is resampled to 48 kHz.

    Returns:
        The number of pictures.

    Raises:
        ValueError: no pictures, or of several sizes.
    """
    count = 0
    with whole_file(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        picture = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": _QUALITY})
        picture.pix_fmt = "yuv420p"
        sound = None
        if waveform is not None:
            layout = "stereo" if len(waveform) > 1 else "mono"
            sound = container.add_stream("aac", rate=sample_rate if sample_rate in _RATES else 48_000, layout=layout)
        size = None
        for image in images:
            size = size or image.size
            if image.size != size:
                raise ValueError(f"the pictures of a film must be of one size, not {size} and {image.size}")
            pixels = np.asarray(image.convert("RGB"))[: size[1] // 2 * 2, : size[0] // 2 * 2]
            if count == 0:
                picture.height, picture.width = pixels.shape[:2]
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
            count += 1
        if count == 0:
            raise ValueError("a film needs at least one picture")
        container.mux(picture.encode(None))
        if sound is not None and waveform is not None:
            samples = waveform[:2].detach().cpu().float().clamp(-1, 1).numpy()
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=sound.layout.name)
            frame.sample_rate = sample_rate
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return count
