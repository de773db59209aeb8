"""The README is true: its commands and its Python run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def here(tmp_path):
    """A folder with the examples in it, and an environment in which `audio2img` is this code."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "audio2img"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m audio2img_core.cli "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return tmp_path, environment


def test_the_set_up_lines_stand_there():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert "pip install -c constraints.txt -e . && audio2img generate examples/piano.flac -o out.png" in lines
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in lines


def test_the_tour_in_the_shell(here):
    folder, environment = here
    (tour,) = (block for block in blocks("sh") if "audio2img init" in block)
    done = subprocess.run(["sh", "-e", "-c", tour], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "pictures").glob("*.png"))) == 5
    assert len(list(folder.glob("crow-*.png"))) == 2
    assert (folder / "sounds.safetensors").exists() and (folder / "models" / "tiny.safetensors").exists()


def test_the_python(here):
    folder, environment = here
    code = "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "crow.png").exists() and "torch.Size([1, 76, 256])" in done.stdout


def test_the_hub_commands_parse():
    from audio2img_core.cli import main

    (block,) = blocks("text")
    for line in block.splitlines():
        words = line.split()
        assert words[0] == "audio2img"
        # A sound that is not there is the first thing to stop it: the options were all understood.
        if words[1] == "generate":
            assert main([*words[1:2], "no/such/rain.wav", *words[3:]]) == 2
        else:
            assert main([words[1], "/no/such/encoder", *words[3:]]) == 2


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).exists(), target
