"""Films: pictures and sound that come back out of the file, and the command that makes them."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from audio2img_core.audio.io import load_audio
from audio2img_core.cli import main
from audio2img_core.generation.video import write_film
from tests.helpers.audio import noise, sine, write_audio

pytestmark = pytest.mark.usefixtures("models_loaded_once")


def colours(*names, size=(65, 48)):
    return [Image.new("RGB", size, name) for name in names]


def frames_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (16_000, 1), (11_025, 1)])
def test_pictures_and_sound_come_back(tmp_path, rate, channels):
    sound = torch.stack([sine(1.0, rate=rate, freq=500.0)] * channels)
    path = tmp_path / "film.mp4"
    assert write_film(path, colours("red", "blue", "white", "black"), fps=4, waveform=sound, sample_rate=rate) == 4
    frames, fps = frames_of(path)
    assert fps == 4 and [frame.shape for frame in frames] == [(48, 64, 3)] * 4
    means = np.array([frame.mean((0, 1)) for frame in frames])
    assert np.abs(means - [[255, 0, 0], [0, 0, 255], [255] * 3, [0] * 3]).max() < 12
    heard, _ = load_audio(path)
    assert len(heard) == channels and heard.shape[1] == pytest.approx(16_000, abs=2500)
    assert torch.fft.rfft(heard[0]).abs().argmax() * 16_000 / heard.shape[1] == pytest.approx(500, abs=3)


@pytest.mark.parametrize(
    ("images", "message"),
    [([], "at least one picture"), ([*colours("red"), *colours("red", size=(32, 32))], "of one size")],
)
def test_films_that_cannot_be_leave_nothing_behind(tmp_path, images, message):
    with pytest.raises(ValueError, match=message):
        write_film(tmp_path / "film.mp4", images, fps=8)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def film(tmp_path, tiny_folders):
    """Function words -> exit code of `audio2img film` on two seconds of tone and noise with tiny models."""
    sound = write_audio(tmp_path / "in.wav", torch.cat([sine(1.0, freq=200.0), noise(1.0)]), 16_000)
    folder = tiny_folders("sd15")
    models = ["--encoder", str(folder / "encoder"), "--diffusion", str(folder / "diffusion"), "--steps", "2"]

    def run(*words):
        try:
            return main(["film", str(sound), *models, *map(str, words)])
        except SystemExit as stop:
            return stop.code

    return run


def test_the_command_makes_a_film_with_its_sound(film, tmp_path, capsys):
    path = tmp_path / "out.mp4"
    assert film("-o", path, "--fps", 3, "--window", 0.5, "--smoothing", 0, "--batch-size", 4) == 0
    assert capsys.readouterr().out == f"{path}\n"
    frames, fps = frames_of(path)
    assert fps == 3 and len(frames) == 6
    heard, _ = load_audio(path)
    assert heard.shape[1] == pytest.approx(32_000, abs=2500)


def test_the_command_writes_numbered_pictures(film, tmp_path):
    more = ["--fps", 1, "--frames", 3, "--every", 2, "--window", 0.5, "--batch-size", 2, "--guidance", 200]
    assert film("-o", tmp_path / "frames", *more) == 0
    files = sorted((tmp_path / "frames").iterdir())
    assert [path.name for path in files] == ["00000.png", "00001.png", "00002.png"]
    first, middle, last = (np.asarray(Image.open(path)).astype(int) for path in files)
    assert 0 < np.abs(first - middle).sum() < np.abs(first - last).sum()  # from the tone to the noise


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "film.avi"], "allowed are NAME.mp4 or a folder"),
        (["-o", "x.mp4", "--fps", "0"], "error: --fps must be above 0 and at most 1000, not 0"),
        (["-o", "x.mp4", "--frames", "0"], "error: --frames must be between 1 and 10000, not 0"),
        (["-o", "x.mp4", "--every", "0"], "error: --every must be at least 1, not 0"),
        (["-o", "x.mp4", "--window", "0"], "error: --window must be above 0, not 0"),
        (["-o", "x.mp4", "--smoothing", "-1"], "error: --smoothing must be at least 0, not -1"),
        (["-o", "x.mp4", "--batch-size", "0"], "error: --batch-size must be at least 1, not 0"),
        (["-o", "x.mp4", "--prompt-weight", "2"], "error: --prompt-weight must be between 0 and 1, not 2"),
        (["-o", "x.mp4", "--start", "2.5"], "2.5"),
        (["-o", "x.mp4", "--size", "100x64"], "error: --size must be multiples of 8 pixels, not 100x64"),
    ],
)
def test_a_bad_option_costs_no_model(film, tmp_path, monkeypatch, capsys, no_models, words, message):
    monkeypatch.chdir(tmp_path)
    assert film(*words) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "x.mp4").exists()


def test_a_folder_with_something_in_it_is_left_alone(film, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert film("-o", tmp_path / "mine") == 2 and "is not empty" in capsys.readouterr().err
