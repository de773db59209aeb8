"""No input of a node reaches a file outside of the folders that the host gives to the nodes."""

import os
from pathlib import Path

import pytest

from tests.helpers.audio import noise, write_audio

OUTSIDE = [
    "../secret.wav",
    "./../secret.wav",
    "deep/../../secret.wav",
    "deep/../../input/../secret.wav",
    "{root}/secret.wav",
    "/{root}/secret.wav",
    "//{root}/secret.wav",
    "{root}/input/../secret.wav",
    "/etc/hostname",
    "/proc/self/environ",
    "/dev/zero",
    "/dev/stdin",
    "~/secret.wav",
    "$HOME/secret.wav",
    "..\\secret.wav",
    "deep\\..\\..\\secret.wav",
    "C:\\secret.wav",
    "C:secret.wav",
    "\\\\server\\share\\secret.wav",
    "\\\\?\\C:\\secret.wav",
    "//server/share/secret.wav",
    "file://{root}/secret.wav",
    "file:{root}/secret.wav",
    "http://localhost/secret.wav",
    "concat:{root}/secret.wav|{root}/secret.wav",
    "pipe:0",
    "%2e%2e/secret.wav",
    "..%2fsecret.wav",
    "link.wav",
    "linked/secret.wav",
    "chain.wav",
    "loop.wav",
    "a\0.wav",
    "../secret.wav\0",
    "\0../secret.wav",
    "../secret.wav [input]",
    "../secret.wav [example]",
    "../../README.md [example]",
    "{root}/secret.wav [example]",
    "link.wav [example]",
    "",
    ".",
    "..",
    "/",
    "deep",
    "x" * 300 + ".wav",
    "x/" * 3000 + "a.wav",
    "\ud800.wav",
]
NO_NAMES = [5, 5.0, True, ["../secret.wav"], {"a": 1}, b"../secret.wav", Path("../secret.wav")]


@pytest.fixture
def tree(folders):
    """An input folder with a sound, links out of it, and a secret beside it."""
    inside = folders / "input"
    (inside / "deep").mkdir()
    write_audio(inside / "deep" / "a.wav", noise(0.1), 16_000)
    secret = write_audio(folders / "secret.wav", noise(0.1), 16_000)
    (inside / "link.wav").symlink_to(secret)
    (inside / "chain.wav").symlink_to("link.wav")
    (inside / "loop.wav").symlink_to("loop.wav")
    (inside / "linked").symlink_to(folders)
    return folders


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_sound_outside_is_reached(node, tree, name):
    name = name.replace("{root}", str(tree))
    loader = node("Audio2ImgLoadAudio")
    said = type(loader).VALIDATE_INPUTS(name)
    assert isinstance(said, str) and said and "\n" not in said and len(said) < 7000
    for call in (loader.execute, type(loader).IS_CHANGED):
        with pytest.raises((ValueError, OSError)):
            call(name, 0.0, 0.0)


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_text_is_refused_as_such(node, tree, name):
    loader = node("Audio2ImgLoadAudio")
    assert "must be the name of a file" in type(loader).VALIDATE_INPUTS(name)
    with pytest.raises(ValueError, match="must be the name of a file"):
        loader.execute(name, 0.0, 0.0)


def test_nothing_at_all_is_refused_when_it_comes_to_loading(node, tree):
    """Before that, None stands for a name that comes over a link."""
    with pytest.raises(ValueError, match="must be the name of a file"):
        node("Audio2ImgLoadAudio").execute(None, 0.0, 0.0)


def test_what_is_shown_can_be_loaded_and_only_that(node, tree):
    loader = node("Audio2ImgLoadAudio")
    options = loader.INPUT_TYPES()["required"]["audio_file"][0]
    assert [name for name in options if not name.endswith(" [example]")] == ["deep/a.wav"]
    assert all(type(loader).VALIDATE_INPUTS(name) is True for name in options)


def test_links_within_the_input_folder_work(node, tree):
    (tree / "input" / "same.wav").symlink_to(tree / "input" / "deep" / "a.wav")
    loader = node("Audio2ImgLoadAudio")
    assert "same.wav" in loader.INPUT_TYPES()["required"]["audio_file"][0]
    assert loader.execute("same.wav", 0.0, 0.0)[0]["waveform"].shape == (1, 1, 1600)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_the_input_folder_does_not_hang(node, tree):
    os.mkfifo(tree / "input" / "pipe.wav")
    loader = node("Audio2ImgLoadAudio")
    assert "no such file" in type(loader).VALIDATE_INPUTS("pipe.wav")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../secret",
            "/etc",
            "..",
            ".",
            "",
            "/",
            "audio_encoders",
            "../audio_encoders/mine",
            "mine/../mine",
            "./mine",
        ),
        *(
            "mine/config.json",
            "mine/model.safetensors",
            "mine/",
            "C:\\mine",
            "mine\0",
            "MINI",
            "someone/encoder",
            5,
            None,
        ),
        *(["mine"], {"mine": 1}),
    ],
)
def test_encoders_are_those_that_are_listed(node, encoder, name):
    with pytest.raises((FileNotFoundError, ValueError), match="no such encoder in models/audio_encoders"):
        node("Audio2ImgLoadEncoder").execute(name, "auto")
