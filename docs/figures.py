"""Draws the pictures of README and docs with the embedded mini: `python docs/figures.py`.

Needs `pip install -e ".[train]"`. `python docs/figures.py seeds film` draws those two alone. Others have scripts of
their own: `docs/sheet.png` is drawn by `benchmarks/mini.py --sheet`, `example_workflows/*.jpg` by `docs/workflows.py`,
and `docs/app.jpg` by `tests/integration/test_app_browser.py`.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from own_sounds import write_sounds
from PIL import Image, ImageDraw, ImageFont

from audio2img_core import AudioToImagePipeline, GenerationSettings, load_audio
from audio2img_core.audio.io import SAMPLE_RATE
from audio2img_core.audio.mel import mel_frames
from audio2img_core.audio.waveform import to_mono
from audio2img_core.conditioning.schedule import ScheduleSettings, schedule
from audio2img_core.generation.video import draw_frames
from training.cli import main as train

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


CELL = 132  # pixels from one picture of a grid to the next
SEEDS = range(1, 8)
SHARES = (0, 0.25, 0.5, 0.75, 1)  # of the text in a blend
PAIRS = (("bird", "a bird"), ("piano", "a piano"), ("rain", "a dog"), ("drum", "a bird"))  # sound, text
PARTS, PART_SECONDS = (("bird", 2.0), ("piano", 0.0), ("rain", 0.0), ("drum", 0.0)), 3.0  # what is filmed, from where
OWN = (  # the flags of docs/training.md
    "--trainer.max_steps 60 --trainer.per_device_train_batch_size 8 --trainer.learning_rate 3e-4 "
    "--trainer.warmup_steps 5"
)
FILM = ScheduleSettings(fps=1.0, window=2.0, smoothing=0.2)


def part_of(sound: Path, start: float, size: int) -> torch.Tensor:
    """`size` samples from `start` seconds on, [size], their peak being 1; what ends before is repeated."""
    mono = to_mono(load_audio(sound, start=start)[0])
    part = mono.repeat(-(-size // len(mono)))[:size]
    return part / part.abs().max()


def wave_card(loud: np.ndarray, width: int, height: int) -> Image.Image:
    """Loudness [n] as bars around a middle line, dark on white."""
    card = Image.new("RGB", (width * FINE, height * FINE), "white")
    pen = ImageDraw.Draw(card)
    step = card.width / len(loud)
    for k, value in enumerate(loud):
        half = max(value, 0.02) * card.height * 0.46
        x = (k + 0.5) * step
        pen.line((x, card.height / 2 - half, x, card.height / 2 + half), fill=ACCENT, width=max(int(step * 0.6), 1))
    return card.resize((width, height), Image.Resampling.LANCZOS)


def grid(heads: Sequence[str], rows: Sequence[tuple[Path, str, Sequence[Image.Image]]], path: Path) -> None:
    """Write rows of pictures, each behind the waveform of its sound.

    Args:
        heads: above the columns.
        rows: (sound, what stands below its waveform, pictures).
        path: PNG.
    """
    left, top = 150, 30
    page = Image.new("RGB", (left + len(heads) * CELL, top + len(rows) * CELL), "white")
    pen = ImageDraw.Draw(page)
    for column, head in enumerate(heads):
        pen.text((left + column * CELL + 64, top / 2), head, font=font(13, bold=True), fill=INK, anchor="mm")
    for row, (sound, below, images) in enumerate(rows):
        y = top + row * CELL
        page.paste(wave_card(peaks(sound, 40), left - 20, 50), (4, y + 22))
        pen.text(((left - 12) / 2, y + 12), sound.name, font=font(13, bold=True), fill=INK, anchor="mm")
        pen.text(((left - 12) / 2, y + 88), below, font=font(12), fill=INK, anchor="mm")
        for column, image in enumerate(images):
            page.paste(image.resize((128, 128)), (left + column * CELL, y))
    save_small(page, path)


def save_small(page: Image.Image, path: Path) -> None:
    """A PNG of 256 colours: a third of the size."""
    page.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_seeds(pipeline: AudioToImagePipeline) -> None:
    """docs/seeds.png: what the same sound becomes with other seeds."""
    rows = []
    for name in ("bird", "piano", "rain"):
        drawn = pipeline(EXAMPLES / f"{name}.flac", seed=SEEDS[0], count=len(SEEDS))
        heard = pipeline.hear(drawn.embeddings, top=1)[0][0].caption
        rows.append((EXAMPLES / f"{name}.flac", f"heard: {heard}", drawn.images))
    grid([f"seed {seed}" for seed in SEEDS], rows, HERE / "seeds.png")


def draw_blend(pipeline: AudioToImagePipeline) -> None:
    """docs/blend.png: the same thing heard and said, another thing said, and what lies between."""
    rows = []
    for name, text in PAIRS:
        heard = pipeline.encode(EXAMPLES / f"{name}.flac")
        images = [pipeline(heard, prompt=text, prompt_weight=share, seed=1).images[0] for share in SHARES]
        rows.append((EXAMPLES / f"{name}.flac", f'with "{text}"', images))
    heads = ["sound alone", *(f"{share:.0%} text".replace("%", " %") for share in SHARES[1:-1]), "text alone"]
    grid(heads, rows, HERE / "blend.png")


def draw_film(pipeline: AudioToImagePipeline) -> None:
    """docs/film.png: frames of a film, under the part of the sound that each was drawn from."""
    size = round(PART_SECONDS * SAMPLE_RATE)
    waveform = torch.cat([part_of(EXAMPLES / f"{name}.flac", start, size) for name, start in PARTS])
    heard = schedule(pipeline.encoder, waveform, SAMPLE_RATE, FILM)
    images = list(draw_frames(pipeline, heard, GenerationSettings(seed=1)))
    width, top, wave, name_height = 92, 24, 70, 20
    page = Image.new("RGB", (width * len(images), top + wave + name_height + width), "white")
    pen = ImageDraw.Draw(page)
    bars = np.array([chunk.max() for chunk in np.array_split(waveform.abs().numpy(), 300)])
    page.paste(wave_card(bars, page.width, wave), (0, top))
    for number, (name, _) in enumerate(PARTS):
        x = page.width * number / len(PARTS)
        pen.text((x + 6, 4), f"{name}.flac", font=font(13, bold=True), fill=INK)
        if number:
            pen.line((x, 0, x, top + wave), fill=PALE, width=1)
    for number, image in enumerate(images):
        x = number * width
        page.paste(image.resize((width - 4, width - 4), Image.Resampling.LANCZOS), (x + 2, top + wave + name_height))
        said = f"{(number + 0.5) / FILM.fps:.1f} s"
        pen.text((x + width / 2, top + wave + name_height / 2), said, font=font(12), fill=INK, anchor="mm")
    save_small(page, HERE / "film.png")


def draw_own(pipeline: AudioToImagePipeline) -> None:
    """docs/own.png: sounds that mini does not know, before and after the training of docs/training.md; minutes."""
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder, "sounds"), Path(folder, "run")
        write_sounds(data)
        words = f"fit --data {data} --target mini --teacher mini --encoder mini --output {run} {OWN}"
        if train(words.split()) != 0:
            raise SystemExit("the training has failed")
        after = AudioToImagePipeline.from_pretrained(run / "encoder.safetensors", device="cpu")
        sounds = [data / "ticking-0.wav", data / "buzzing-0.wav", EXAMPLES / "bird.flac"]
        said = ['learned: "a clock"', 'learned: "a bee"', "not in this training"]
        rows = [
            (sound, words, [pipe(sound, seed=1).images[0] for pipe in (pipeline, after)])
            for sound, words in zip(sounds, said, strict=True)
        ]
        grid(["before", "after"], rows, HERE / "own.png")


FIGURES = {
    "flow": draw_flow,
    "icon": lambda pipeline: draw_icon(pipeline, "bird"),
    "banner": lambda pipeline: draw_banner(pipeline, ["piano", "bird", "rain", "drum"]),
    "seeds": draw_seeds,
    "blend": draw_blend,
    "film": draw_film,
    "own": draw_own,
}


def main() -> None:
    """Draw all of them, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)} (default: all)")
    names = parser.parse_args().figures
    if unknown := sorted(set(names) - set(FIGURES)):
        parser.error(f"there is no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    pipeline = AudioToImagePipeline.from_pretrained(device="cpu")
    for name in names or FIGURES:
        FIGURES[name](pipeline)
        print(HERE / f"{name}.png")


if __name__ == "__main__":
    main()
