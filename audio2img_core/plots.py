"""Pictures of what goes in and what is heard: waveform and log-mel spectrogram, and scores as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .audio.io import SAMPLE_RATE
from .audio.mel import MIN_SAMPLES, mel_frames

_INK, _SOFT, _FAINT, _PAPER = (32, 33, 40), (120, 122, 134), (226, 227, 232), (255, 255, 255)
_WAVE, _BAR = (59, 82, 139), (33, 145, 140)
# The colour map viridis at nine even steps (CC0, Smith and van der Walt 2015), straight lines between them.
_VIRIDIS = (
    *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
    *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
)
_RANGE = 12.0  # nats below the loudest that are shown: about 52 dB
_HERTZ = (125, 250, 500, 1000, 2000, 4000)
_MEL_ENDS = (20.0, 8000.0)  # of the bins, in Hz
_MARGIN = 44  # pixels left of the plots, for the frequencies
_LINE = 18  # pixels of a line of text


def draw_spectrogram(waveform: Tensor, *, width: int = 960, height: int = 420) -> Image.Image:
    """Waveform and log-mel spectrogram of a sound, one above the other over the same seconds.

    Args:
        waveform: [T] float in -1..1, mono, 16 kHz.
        width, height: of the picture, pixels.

    Raises:
        ValueError: waveform is not [T], or shorter than 35 ms; or no room for the plots (320 x 200).
    """
    if waveform.ndim != 1 or len(waveform) < MIN_SAMPLES:
        raise ValueError(f"a spectrogram needs a mono sound [T] of at least 35 ms, not {list(waveform.shape)}")
    if width < 320 or height < 200:
        raise ValueError(f"a spectrogram needs at least 320 x 200 pixels, not {width} x {height}")
    seconds = len(waveform) / SAMPLE_RATE
    left, right, bottom = _MARGIN, width - 12, height - _LINE - 6
    wave_top, wave_bottom = 8, 8 + (bottom - 8) // 4
    mel_top = wave_bottom + 10
    image = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(image), _font(12)

    middle, half = (wave_top + wave_bottom) / 2, (wave_bottom - wave_top) / 2
    low, high = _envelope(waveform.detach().float().cpu(), right - left)
    pen.line([(left, middle), (right, middle)], fill=_FAINT)
    for x, (down, up) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        pen.line([(left + x, middle - half * up), (left + x, middle - half * down)], fill=_WAVE)

    mel = mel_frames(waveform.detach().float().cpu()[None])[0].float()  # [N, 80]
    shown = ((mel - mel.max()) / _RANGE + 1).clamp(0, 1).T.flip(0)[None, None]
    size = (bottom - mel_top, right - left)
    shown = F.interpolate(shown, size=size, mode="bilinear", align_corners=False)[0, 0]
    image.paste(Image.fromarray(_coloured(shown).numpy()), (left, mel_top))

    for hertz in _HERTZ:
        y = bottom - (bottom - mel_top) * (_mel(hertz) - _mel(_MEL_ENDS[0])) / (_mel(_MEL_ENDS[1]) - _mel(_MEL_ENDS[0]))
        text = f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"
        pen.text((left - 6, y), text, fill=_SOFT, font=_font(10), anchor="rm")
        pen.line([(left - 3, y), (left, y)], fill=_SOFT)
    step = _tick(seconds, most=max((right - left) // 70, 2))
    for number in range(int(seconds / step + 1e-6) + 1):
        x = left + (right - left) * number * step / seconds
        pen.line([(x, bottom), (x, bottom + 4)], fill=_SOFT)
        pen.text((x, bottom + 5), f"{number * step:g} s", fill=_INK, font=font, anchor="ma" if number else "la")
    return image


def draw_scores(scores: Sequence[tuple[str, float]], *, width: int = 480) -> Image.Image:
    """Captions with their scores as bars, one below the other.

    Args:
        scores: (caption, score in 0..1), in the order in which they are drawn.
        width: of the picture, pixels.

    Raises:
        ValueError: no scores, or one outside 0..1.
    """
    if not scores or not all(0 <= score <= 1 for _, score in scores):
        raise ValueError(f"bars need scores between 0 and 1, not {list(scores)}")
    row, font = 28, _font(14)
    image = Image.new("RGB", (width, row * len(scores) + 12), _PAPER)
    pen = ImageDraw.Draw(image)
    left, right = round(width * 0.45), width - 56
    for number, (caption, score) in enumerate(scores):
        y = 6 + row * number
        pen.text((left - 10, y + row / 2), _fitting(caption, font, left - 18), fill=_INK, font=font, anchor="rm")
        pen.rectangle([left, y + 6, right, y + row - 6], fill=_FAINT)
        if score > 0:
            pen.rectangle([left, y + 6, left + max((right - left) * score, 1), y + row - 6], fill=_BAR)
        pen.text((right + 8, y + row / 2), f"{score:.0%}", fill=_INK, font=font, anchor="lm")
    return image


def as_image_batch(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as ComfyUI's IMAGE: [B, H, W, 3] float32 in 0..1."""
    return torch.stack([torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255) for image in images])


def _envelope(waveform: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest sample of each of `columns` equal parts, within -1..1; each [columns]."""
    edges = torch.linspace(0, len(waveform), columns + 1).long()
    parts = [waveform[a : max(b, a + 1)] for a, b in zip(edges, edges[1:], strict=False)]
    low, high = (torch.stack([extreme(part) for part in parts]) for extreme in (torch.min, torch.max))
    return low.clamp(-1, 1), high.clamp(-1, 1)


def _coloured(values: Tensor) -> Tensor:
    """[H, W] in 0..1 -> [H, W, 3] uint8."""
    table = torch.tensor(_VIRIDIS, dtype=torch.float32)
    place = values * (len(table) - 1)
    first = place.long().clamp(max=len(table) - 2)
    share = (place - first)[..., None]
    return (table[first] * (1 - share) + table[first + 1] * share).round().to(torch.uint8)


def _mel(hertz: float) -> float:
    """Kaldi's mel scale."""
    return 1127.0 * math.log1p(hertz / 700.0)


def _tick(seconds: float, *, most: int) -> float:
    """A round distance between marks, such that there are at most `most` of them."""
    power = 10.0 ** math.floor(math.log10(seconds / most))
    return next(power * step for step in (1, 2, 5, 10) if seconds / (power * step) <= most)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its end replaced by dots where it is too long."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
