"""Draws the figure of the README: `pip install matplotlib && python docs/figures.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from audio2img_core import AudioToImagePipeline, load_audio
from audio2img_core.audio import to_mono
from audio2img_core.features import mel_frames

HERE = Path(__file__).parent
INK, ACCENT = "#22252b", "#c2571a"


def main() -> None:
    """Write docs/flow.png: a recording, its log-mel, its tokens, and the picture drawn from them."""
    sound = HERE.parent / "examples" / "piano.flac"
    waveform, rate = load_audio(sound)
    mono = to_mono(waveform)
    pipeline = AudioToImagePipeline.from_pretrained()
    tokens, _ = pipeline.condition(pipeline.encode(sound))
    picture = pipeline(sound, seed=1, steps=12).images[0]

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
        axes[3].set(title="4  a picture", xticks=[], yticks=[], xlabel="noise here: nothing is trained yet")
        figure.savefig(HERE / "flow.png", dpi=110)


if __name__ == "__main__":
    main()
