"""Hub ids, through the hub's own cache as a download leaves it; no network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, tiny_folders, seed_folder):
    """A hub cache with an encoder, a seed checkpoint, a diffusion model and a ControlNet."""
    places = {
        "someone/encoder": tiny_folders("sd21") / "encoder",
        "youzarsif/wav2vec2bert_2_diffusion": seed_folder,
        "someone/diffusion-1.0": tiny_folders("sd21") / "diffusion",
        "someone/controlnet-1.0": tiny_folders("sd21") / "controlnet",
    }
    for name, folder in places.items():
        repo = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(COMMIT)
        (repo / "snapshots").mkdir()
        (repo / "snapshots" / COMMIT).symlink_to(folder)
    return tmp_path


@pytest.mark.parametrize("encoder", ["someone/encoder", "youzarsif/wav2vec2bert_2_diffusion"])
def test_generate_and_info_by_hub_ids(cache, examples, encoder):
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}

    def audio2img(*arguments):
        command = [sys.executable, "-m", "audio2img_core.cli", *map(str, arguments)]
        return subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True)

    models = ["--encoder", encoder, "--diffusion", "someone/diffusion-1.0", "--steps", 1]
    done = audio2img("generate", examples / "drum.flac", "-o", "o.png", *models)
    assert done.returncode == 0, done.stderr
    assert (cache / "o.png").exists()
    done = audio2img("info", encoder)
    assert done.returncode == 0 and "sd21" in done.stdout, done.stderr
    net = ["--controlnet", "someone/controlnet-1.0", "--control-image", "o.png"]
    done = audio2img("generate", examples / "drum.flac", "-o", "c.png", *models, *net)
    assert done.returncode == 0, done.stderr


def test_a_hub_id_that_cannot_be_reached(cache, examples):
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    for option in ("--encoder", "--diffusion"):
        command = [sys.executable, "-m", "audio2img_core.cli", "generate", str(examples / "drum.flac"), "-o", "o.png"]
        done = subprocess.run([*command, option, "no/such"], cwd=cache, env=environment, capture_output=True, text=True)
        errors = done.stderr.splitlines()
        assert done.returncode == 2 and len(errors) == 1 and "no/such" in errors[0], done.stderr
