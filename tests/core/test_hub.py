"""Hub ids, through the hub's own cache as a download leaves it; no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# One process for all commands: the hub's library reads its settings when it is imported.
PROGRAM = """
import contextlib, io, json, sys
from audio2img_core.cli import main
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""
MODELS = ["--encoder", "someone/encoder", "--diffusion", "someone/diffusion-1.0", "--steps", "1"]
PUBLISHED = ["--encoder", "youzarsif/wav2vec2bert_2_diffusion", *MODELS[2:]]
CONTROL = ["--controlnet", "someone/controlnet-1.0", "--control-image", "image.png"]
COMMANDS = {
    "generate": ["generate", "drum.flac", "-o", "image.png", *MODELS],
    "generate by an upstream encoder": ["generate", "drum.flac", "-o", "published.png", *PUBLISHED],
    "generate by a ControlNet": ["generate", "drum.flac", "-o", "controlled.png", *MODELS, *CONTROL],
    "info": ["info", "someone/encoder"],
    "info of an upstream encoder": ["info", "youzarsif/wav2vec2bert_2_diffusion"],
    "no encoder": ["generate", "drum.flac", "-o", "none.png", "--encoder", "no/such"],
    "no diffusion": ["generate", "drum.flac", "-o", "none.png", "--diffusion", "no/such"],
}


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_folders, seed_folder, examples):
    """(folder, command -> (exit code, output, errors)) with a cache of encoders, a diffusion model and a ControlNet."""
    folder = tmp_path_factory.mktemp("hub")
    places = {
        "someone/encoder": tiny_folders("sd21") / "encoder",
        "youzarsif/wav2vec2bert_2_diffusion": seed_folder,
        "someone/diffusion-1.0": tiny_folders("sd21") / "diffusion",
        "someone/controlnet-1.0": tiny_folders("sd21") / "controlnet",
    }
    for name, model in places.items():
        repo = folder / "hub" / f"models--{name.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(COMMIT)
        (repo / "snapshots").mkdir()
        (repo / "snapshots" / COMMIT).symlink_to(model)
    (folder / "drum.flac").symlink_to(examples / "drum.flac")
    environment = {**os.environ, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, json.dumps(list(COMMANDS.values()))]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder, dict(zip(COMMANDS, map(json.loads, ended.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("generate")])
def test_generate_by_hub_ids(done, name):
    folder, results = done
    code, _, errors = results[name]
    assert code == 0 and (folder / COMMANDS[name][3]).exists(), errors


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("info")])
def test_info_by_hub_ids(done, name):
    code, output, errors = done[1][name]
    assert code == 0 and "sd21" in output, errors


@pytest.mark.parametrize("name", ["no encoder", "no diffusion"])
def test_a_hub_id_that_cannot_be_reached(done, name):
    folder, results = done
    code, _, errors = results[name]
    assert code == 2 and len(errors.splitlines()) == 1 and "no/such" in errors, errors
    assert not (folder / "none.png").exists()
