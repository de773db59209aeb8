"""A disk that is full in the middle of a file: one line that names the file, and nothing half written."""

import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from audio2img_core import AudioEncoder
from audio2img_core.cli import main
from audio2img_core.encoder.checkpoint import save
from audio2img_core.generation.video import write_film
from audio2img_core.random_init import make_encoder
from tests.helpers.audio import noise
from training.data.flac import write_flac

ROOT = Path(__file__).parents[2]


@contextmanager
def full_after(size):
    """Files cannot grow beyond `size` bytes inside: writing fails in the middle, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["e.safetensors", "folder"])
def test_a_checkpoint_is_whole_or_not_there(tmp_path, name):
    encoder = make_encoder("sd15")
    with full_after(100_000), pytest.raises(OSError) as caught:
        save(encoder, tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    assert files(tmp_path) == []


def test_the_checkpoint_that_was_there_stays(tmp_path):
    before, after = make_encoder("sd15", seed=1), make_encoder("sd15", seed=2)
    path = tmp_path / "e.safetensors"
    save(before, path)
    with full_after(100_000), pytest.raises(OSError):
        save(after, path)
    weight = "head.out.weight"
    assert torch.equal(AudioEncoder.from_pretrained(path).state_dict()[weight], before.state_dict()[weight])
    assert files(tmp_path) == ["e.safetensors"]


@pytest.mark.parametrize("seconds", [0.5, 20.0])
def test_a_prepared_clip_is_whole_or_not_there(tmp_path, seconds):
    with full_after(4000), pytest.raises(OSError, match=r"clip\.flac"):
        write_flac(tmp_path / "clip.flac", noise(seconds))
    assert files(tmp_path) == []


def test_a_film_is_whole_or_not_there(tmp_path):
    pictures = [Image.effect_noise((64, 64), 90).convert("RGB") for _ in range(30)]
    with full_after(4000), pytest.raises(OSError, match=r"film\.mp4"):
        write_film(tmp_path / "film.mp4", iter(pictures), fps=5, waveform=noise(6.0)[None], sample_rate=16_000)
    assert files(tmp_path) == []


@pytest.mark.parametrize("command", ["generate", "convert", "encode"])
def test_the_command_line_says_it_in_a_line(tmp_path, examples, capsys, command):
    name = "o.png" if command == "generate" else "o.safetensors"
    words = {
        "generate": ["generate", str(examples / "drum.flac"), "--steps", "1", "-o"],
        "convert": ["convert", "mini"],
        "encode": ["encode", str(examples / "drum.flac"), "-o"],
    }[command]
    with full_after(3000):
        code = main([*words, str(tmp_path / name)])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("audio2img: error")]
    assert code == 2 and str(tmp_path / name) in errors[0], errors
    assert files(tmp_path) == []


@pytest.mark.slow
def test_a_device_that_is_full_is_said(tmp_path, examples):
    """The kernel's own full device, to which everything is refused."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    line = [sys.executable, "-m", "audio2img_core.cli", "hear", str(examples / "drum.flac")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
