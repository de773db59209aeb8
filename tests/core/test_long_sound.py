"""Files that hold more sound than anybody wants in memory: what is taken of them, and how to ask for more."""

import tracemalloc

import pytest
import torch

from audio2img_core.audio.excerpt import MAX_SECONDS, MAX_SECONDS_VARIABLE, Excerpt
from audio2img_core.audio.io import load_audio
from audio2img_core.audio.waveform import read_clips
from audio2img_core.cli import main
from tests.helpers.audio import noise, write_audio, write_silence


def load_mono(path, **excerpt):
    (clip,) = read_clips(path, Excerpt(**excerpt))
    return clip


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """A day of silence in 20 kilobytes."""
    path = write_silence(tmp_path_factory.mktemp("bomb") / "bomb.flac", 24 * 3600, 1000)
    assert path.stat().st_size < 20_000
    return path


@pytest.fixture(scope="module")
def minute(tmp_path_factory):
    return write_audio(tmp_path_factory.mktemp("minute") / "minute.flac", noise(60.0), 16_000)


@pytest.fixture(autouse=True)
def _default(monkeypatch):
    monkeypatch.delenv(MAX_SECONDS_VARIABLE, raising=False)


@pytest.mark.parametrize("load", [load_audio, load_mono])
def test_a_day_in_a_small_file_is_refused_before_it_is_in_memory(bomb, load):
    tracemalloc.start()
    with pytest.raises(ValueError) as caught:
        load(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * 4 * MAX_SECONDS * 16_000  # four hours at 16 kHz; of 24 hours it would be four times that
    message = str(caught.value)
    assert "\n" not in message and str(bomb) in message
    assert "limit of 14400 s" in message and "duration" in message and MAX_SECONDS_VARIABLE in message


def test_a_part_of_it_is_taken(bomb):
    assert load_audio(bomb, start=20 * 3600, duration=2, sample_rate=None)[0].shape == (1, 2000)
    assert load_mono(bomb, duration=2).shape == (32_000,)


def test_a_part_of_more_than_is_taken_is_refused_too(bomb):
    with pytest.raises(ValueError, match="limit of 14400 s"):
        load_audio(bomb, duration=20_000)


def test_more_is_taken_where_it_is_asked_for(bomb, monkeypatch):
    most = {"duration": 15_000, "sample_rate": None}
    assert load_audio(bomb, max_seconds=15_000, **most)[0].shape == (1, 15_000_000)
    monkeypatch.setenv(MAX_SECONDS_VARIABLE, "15000")
    assert load_audio(bomb, **most)[0].shape == (1, 15_000_000)


def test_less_is_taken_where_it_is_asked_for(minute, monkeypatch):
    assert load_audio(minute, max_seconds=60)[0].shape == (1, 960_000)
    for load in (load_audio, load_mono):
        with pytest.raises(ValueError, match="limit of 59 s"):
            load(minute, max_seconds=59)
        assert load(minute, max_seconds=float("inf")) is not None
    monkeypatch.setenv(MAX_SECONDS_VARIABLE, "30")
    with pytest.raises(ValueError, match="limit of 30 s"):
        load_mono(minute)
    assert load_mono(minute, max_seconds=60).shape == (960_000,)
    assert load_mono(minute, start=10, duration=30).shape == (480_000,)


def test_channels_and_rates_that_take_more_memory_give_fewer_seconds(tmp_path):
    path = write_audio(tmp_path / "six.flac", torch.zeros(6, 96_000 * 2), 96_000)
    with pytest.raises(ValueError, match=r"limit of 1\.33333 s for 6 channel\(s\) at 96000 Hz"):
        load_audio(path, max_seconds=8)
    assert load_audio(path, max_seconds=12, sample_rate=None)[0].shape == (6, 192_000)
    assert load_mono(path, max_seconds=2).shape == (32_000,)  # one channel is all that is held


@pytest.mark.parametrize("value", ["0", "-1", "nan", "many", "1 h"])
def test_a_limit_that_cannot_be_is_refused_by_its_name(minute, monkeypatch, value):
    monkeypatch.setenv(MAX_SECONDS_VARIABLE, value)
    with pytest.raises(ValueError, match=f"{MAX_SECONDS_VARIABLE} must be a number of seconds above 0"):
        load_audio(minute)
    with pytest.raises(ValueError, match="max_seconds must be a number of seconds above 0"):
        load_audio(minute, max_seconds=value)


def test_the_command_line_says_it(minute, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(MAX_SECONDS_VARIABLE, "30")
    assert main(["encode", str(minute), "-o", str(tmp_path / "o.safetensors")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "limit of 30 s" in errors[0] and len(errors) == 2  # the second: none could be encoded
