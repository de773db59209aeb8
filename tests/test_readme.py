"""The README is true: its lines for the shell and its Python; test_docs.py has the other pages."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.helpers.pages import ROOT, commands, parse, read_blocks

BLOCKS = read_blocks(ROOT / "README.md")


@pytest.fixture
def here(tmp_path):
    """A folder with the examples in it, and an environment in which `audio2img` is this code."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "bin").mkdir()
    for name, module in (("audio2img", "audio2img_core.cli"), ("audio2img-train", "training")):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return tmp_path, environment


def test_the_set_up_lines_stand_there():
    lines = [line for block in BLOCKS if block.language == "sh" for line in block.text.splitlines()]
    assert "pip install -c constraints.txt -e . && audio2img generate examples/piano.flac -o out.png" in lines
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in lines


def test_the_shell_lines_are_understood(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for block in BLOCKS:
        for words in commands(block.text) if block.language == "sh" else ():
            parse(words, monkeypatch)


def test_the_first_picture(here):
    folder, environment = here
    (line,) = (block.text for block in BLOCKS if "audio2img generate" in block.text)
    line = line.split(" && ")[1]  # pip is left to .ci/run
    done = subprocess.run(["sh", "-e", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out.png\n" and Image.open(folder / "out.png").size == (128, 128)
    assert "piano.flac: heard a piano " in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_python(tmp_path, monkeypatch, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in BLOCKS if block.language == "python")
    exec(compile(block.text, block.where, "exec"), {"__name__": "__main__"})
    assert (tmp_path / "bird.png").exists() and "caption='a bird'" in capsys.readouterr().out
