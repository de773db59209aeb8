"""Draws the README's figure, the icon and the banner: `pip install matplotlib && python docs/figures.py`."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from audio2img_core import AudioToImagePipeline, load_audio
from audio2img_core.audio import to_mono
from audio2img_core.features import mel_frames

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
INK, ACCENT = "#22252b", "#c2571a"
DARK, WAVE, PALE = "#17181d", "#5ec8c3", "#9a9ca8"
FINE = 4  # drawn this much larger, then made smaller: PIL's shapes have no smooth edges


def peaks(sound: Path, count: int) -> np.ndarray:
    """Loudness of `count` parts of a sound, [count], the loudest being 1."""
    mono = to_mono(load_audio(sound)[0]).abs().numpy()
    loud = np.array([part.max() for part in np.array_split(mono, count)])
    return loud / loud.max()


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf"), size)


def draw_flow(pipeline: AudioToImagePipeline) -> None:
    """docs/flow.png: a recording, its log-mel, its tokens, and the picture drawn from them."""
    sound = EXAMPLES / "piano.flac"
    waveform, rate = load_audio(sound)
    mono = to_mono(waveform)
    tokens, _ = pipeline.condition(pipeline.encode(sound))
    picture = pipeline(sound, seed=1).images[0]

    seconds = len(mono) / rate
    style = {"font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": INK, "text.color": INK}
    with plt.rc_context({**style, "axes.titlesize": 10, "axes.titleweight": "bold"}):
        figure, axes = plt.subplots(1, 4, figsize=(12, 2.9), width_ratios=[1.3, 1.3, 1.3, 1], layout="constrained")
        axes[0].plot(np.arange(len(mono)) / rate, mono, color=ACCENT, linewidth=0.4)
        axes[0].set(title="1  a sound", xlabel="seconds", xlim=(0, seconds), yticks=[])
        mel = mel_frames(mono[None])[0].T
        axes[1].imshow(mel, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, 80))
        axes[1].set(title="2  log-mel", xlabel="seconds", ylabel="mel bin")
        shown = torch.nn.functional.normalize(tokens.tokens[0], dim=-1)
        axes[2].imshow(shown.T[:128], aspect="auto", cmap="PuOr", vmin=-0.2, vmax=0.2)
        axes[2].set(title="3  77 tokens, as of a text prompt", xlabel="token", ylabel="channel")
        axes[3].imshow(picture)
        axes[3].set(title="4  a picture", xticks=[], yticks=[], xlabel="by mini, the embedded default")
        figure.savefig(HERE / "flow.png", dpi=110)


def draw_icon(pipeline: AudioToImagePipeline, name: str) -> None:
    """docs/icon.png: a picture of mini's in the ring of the sound that it was drawn from."""
    size = 400 * FINE
    icon = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    pen = ImageDraw.Draw(icon)
    pen.rounded_rectangle((0, 0, size - 1, size - 1), radius=size // 6, fill=DARK)
    middle, inner, longest = size / 2, size * 0.31, size * 0.15
    loud = peaks(EXAMPLES / f"{name}.flac", 60)
    for i, value in enumerate(loud):
        angle = 2 * math.pi * i / len(loud) - math.pi / 2
        ends = [inner + size * 0.02, inner + size * 0.02 + max(value, 0.06) * longest]
        line = [middle + f(angle) * r for r in ends for f in (math.cos, math.sin)]
        pen.line(line, fill=WAVE, width=size // 60)
    disc = Image.new("L", (size, size), 0)
    ImageDraw.Draw(disc).ellipse([middle - inner, middle - inner, middle + inner, middle + inner], fill=255)
    side = int(inner * 1.45)
    picture = pipeline(EXAMPLES / f"{name}.flac", seed=1).images[0].resize((side, side), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (size, size), "white")
    page.paste(picture, (int(middle - side / 2),) * 2)
    icon.paste(page, mask=disc)
    icon.resize((400, 400), Image.Resampling.LANCZOS).save(HERE / "icon.png")


def draw_banner(pipeline: AudioToImagePipeline, names: list[str]) -> None:
    """docs/banner.png: what some sounds became."""
    width, height = 1260 * FINE, 540 * FINE
    banner = Image.new("RGB", (width, height), DARK)
    pen = ImageDraw.Draw(banner)
    pen.text((width / 2, height * 0.14), "audio2img", font=font(height // 7, bold=True), fill="white", anchor="mm")
    pen.text((width / 2, height * 0.28), "sound as a prompt", font=font(height // 16), fill=PALE, anchor="mm")
    side, gap = int(height * 0.34), int(width * 0.025)
    left = (width - len(names) * side - (len(names) - 1) * gap) // 2
    for i, name in enumerate(names):
        x, wave, top = left + i * (side + gap), height * 0.43, int(height * 0.54)
        loud = peaks(EXAMPLES / f"{name}.flac", 40)
        for k, value in enumerate(loud):
            half = max(value, 0.04) * height * 0.07
            at = x + side * (k + 0.5) / len(loud)
            pen.line((at, wave - half, at, wave + half), fill=WAVE, width=side // 75)
        picture = pipeline(EXAMPLES / f"{name}.flac", seed=1).images[0]
        tile = Image.new("L", (side, side), 0)
        ImageDraw.Draw(tile).rounded_rectangle((0, 0, side - 1, side - 1), radius=side // 12, fill=255)
        banner.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x, top), tile)
    banner.resize((1260, 540), Image.Resampling.LANCZOS).save(HERE / "banner.png")


def main() -> None:
    """Draw all of them with the embedded mini."""
    pipeline = AudioToImagePipeline.from_pretrained()
    draw_flow(pipeline)
    draw_icon(pipeline, "bird")
    draw_banner(pipeline, ["piano", "bird", "rain", "drum"])


if __name__ == "__main__":
    main()
