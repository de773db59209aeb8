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
    for name, module in (("audio2img", "audio2img_core.cli"), ("audio2img-train", "training")):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return tmp_path, environment


def test_the_set_up_lines_stand_there():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert "pip install -c constraints.txt -e . && audio2img generate examples/piano.flac -o out.png" in lines
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in lines


def test_the_tour_in_the_shell(here):
    folder, environment = here
    (tour,) = (block for block in blocks("sh") if "audio2img init models/tiny" in block)
    done = subprocess.run(["sh", "-e", "-c", tour], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "pictures").glob("*.png"))) == 5
    assert len(list(folder.glob("bird-*.png"))) == 2
    assert (folder / "sounds.safetensors").exists() and (folder / "models" / "tiny.safetensors").exists()


def test_the_tour_of_training(here):
    folder, environment = here
    (tour,) = (block for block in blocks("sh") if "audio2img-train fit" in block)
    done = subprocess.run(["sh", "-e", "-c", tour], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| R@1, audio to text |" in done.stdout and (folder / "trained.png").exists()


def test_the_training_commands_parse(capsys):
    from training.cli import main

    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```text\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    ours = [line.split() for line in lines if line.startswith("audio2img-train")]
    assert len(ours) == 4
    for words in ours:
        # Data that is not there is the first thing to stop it: the options were all understood.
        at = words.index("--data")
        assert main([*words[1:at], "--data", "/no/such/sounds", *words[at + 2 :]]) == 2
        assert "/no/such/sounds" in capsys.readouterr().err
    for flag in re.findall(r"`(--[\w.-]+)(?: [^`]*)?`", text):
        with pytest.raises(SystemExit):
            main(["fit", "--help"])
        printed = capsys.readouterr().out
        assert flag in printed or flag.startswith("--trainer."), flag


def test_the_python(here):
    folder, environment = here
    code = "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "bird.png").exists() and "torch.Size([1, 76, 256])" in done.stdout


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
