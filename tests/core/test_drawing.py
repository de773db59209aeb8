"""Spectrograms and bars: what a person reads off them is what is there."""

import numpy as np
import pytest
import torch

from audio2img_core.plots import draw_scores, draw_spectrogram
from tests.helpers.audio import noise, sine


def pixels(image):
    return np.asarray(image).astype(float)


def test_a_tone_is_a_bright_line_at_its_height_while_it_lasts():
    silence = torch.zeros(16000)
    picture = pixels(draw_spectrogram(torch.cat([silence, sine(1.0, freq=1000.0)]), width=800, height=400))
    brightness = picture[130:370, 50:780].sum(-1)  # inside the spectrogram
    half = brightness.shape[1] // 2
    assert brightness[:, : half - 20].max() < 200 < 500 < brightness[:, half + 20 :].max()
    lines = {}
    for hertz in (500.0, 1000.0, 4000.0):
        drawn = pixels(draw_spectrogram(sine(1.0, freq=hertz), width=800, height=400))
        lines[hertz] = 130 + int(drawn[130:370, 50:780].sum((1, 2)).argmax())
    assert lines[4000.0] < lines[1000.0] < lines[500.0]
    # The mark of 1 kHz stands left of the plot, at the height of the line.
    marks = [y for y in range(130, 370) if (drawn[y, 42] < 200).all()]
    assert min(abs(y - lines[1000.0]) for y in marks) <= 3


def test_the_waveform_shows_how_loud_it_is():
    picture = pixels(draw_spectrogram(torch.cat([0.1 * sine(1.0), sine(1.0) * 1.9]), width=800, height=400))
    inked = (picture[8:105, 44:788] < 100).any(-1).sum(0)  # dark pixels of each column
    assert inked[380:].mean() > 6 * inked[:360].mean()


@pytest.mark.parametrize("seconds", [0.05, 3.0, 600.0])
def test_any_length_has_its_axis(seconds):
    image = draw_spectrogram(noise(seconds), width=480, height=240)
    assert image.size == (480, 240)
    axis = pixels(image)[-18:]
    assert (axis < 100).any()  # words below


@pytest.mark.parametrize(
    ("waveform", "options", "message"),
    [
        (torch.zeros(100), {}, "at least 35 ms"),
        (torch.zeros(1, 16000), {}, r"mono sound \[T\]"),
        (torch.zeros(16000), {"width": 100}, "320 x 200"),
    ],
)
def test_spectrograms_that_cannot_be(waveform, options, message):
    with pytest.raises(ValueError, match=message):
        draw_spectrogram(waveform, **options)


def test_bars_are_as_long_as_the_scores():
    picture = pixels(draw_scores([("a piano", 0.8), ("a dog", 0.2), ("rain", 0.0)], width=480))
    green = (picture[..., 0] < 60) & (picture[..., 1] > 120)
    lengths = [green[6 + 28 * row + 14].sum() for row in range(3)]
    assert lengths[2] == 0 and lengths[0] == pytest.approx(4 * lengths[1], abs=3)
    assert draw_scores([("x" * 300, 1.0)]).size == (480, 40)  # a long caption is cut, not drawn over the bar


@pytest.mark.parametrize("scores", [[], [("a", 1.1)], [("a", float("nan"))]])
def test_scores_that_cannot_be_drawn(scores):
    with pytest.raises(ValueError, match="between 0 and 1"):
        draw_scores(scores)
