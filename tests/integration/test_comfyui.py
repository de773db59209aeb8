"""The pack in a real ComfyUI: `COMFYUI_PATH=/path/to/ComfyUI pytest -m comfyui`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not os.environ.get("COMFYUI_PATH"), reason="COMFYUI_PATH names no ComfyUI checkout"),
]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def result(tmp_path_factory, examples):
    """What the script beside this file saw. ComfyUI takes over sys.path and the device, so it has a process."""
    base = tmp_path_factory.mktemp("comfyui")
    for name in ("input", "output", "temp", "user", "models/audio_encoders", "custom_nodes"):
        (base / name).mkdir(parents=True)
    (base / "input" / "piano.flac").write_bytes((examples / "piano.flac").read_bytes())
    (base / "input" / "bird.flac").write_bytes((examples / "bird.flac").read_bytes())
    (base / "custom_nodes" / "audio2img").symlink_to(HERE.parents[1])
    report = base / "report.json"
    done = subprocess.run(
        [sys.executable, HERE / "comfyui_run.py", report, "--cpu", "--base-directory", base],
        cwd=os.environ["COMFYUI_PATH"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return json.loads(report.read_text())


def test_the_pack_loads_with_all_nodes(result):
    assert result["loaded"]
    assert result["nodes"] == {
        "Audio2ImgLoadAudio": "Load Audio",
        "Audio2ImgLoadEncoder": "Load Audio Encoder (Wav2Vec2Bert)",
        "Audio2ImgEncode": "Audio Encoder (Wav2Vec2Bert)",
        "Audio2ImgToConditioning": "Audio to Conditioning",
        "Audio2ImgBlend": "Blend Conditioning",
        "Audio2ImgSchedule": "Audio Conditioning Schedule",
        "Audio2ImgLoadMini": "Load Mini Diffusion Model",
        "Audio2ImgSpectrogram": "Preview Spectrogram",
        "Audio2ImgSimilarity": "Audio-Text Similarity",
    }
    assert result["core_load_audio_is_core"]


def test_loading_imports_neither_transformers_nor_diffusers_of_its_own(result):
    assert "diffusers" not in result["imported_by_loading"]


def test_inputs_and_encoders_are_found(result):
    assert result["audio_files"][:2] == ["bird.flac", "piano.flac"]
    assert all(name.endswith(" [example]") for name in result["audio_files"][2:])
    assert result["encoders"] == ["mini", "tiny.safetensors"]


@pytest.mark.parametrize("target", ["sd15", "sd21", "sdxl"])
def test_from_sound_to_latents_through_ksampler(result, target):
    run = result["runs"][target]
    assert run["cond_shape"][:2] == [1, 77]
    assert run["batched"], "positive and negative must share one UNet call"
    assert run["finite"] and run["piano_differs_from_bird"] > 1e-3
    assert run["same_again"] == 0.0


def test_the_unet_in_comfyui_is_the_one_of_diffusers(result):
    assert result["runs"]["sd15"]["unet_difference"] < 1e-4


def test_mini_in_comfyui_is_the_one_of_diffusers(result):
    mini = result["mini"]
    assert mini["unet_difference"] < 1e-4
    assert mini["encode_difference"] < 1e-4 and mini["decode_difference"] < 1e-4
    assert mini["picture_difference"] < 0.25 * mini["picture_contrast"]


def test_the_encoder_is_loaded_and_unloaded_by_model_management(result):
    assert result["encoder_was_loaded"] and result["encoder_was_unloaded"]


def test_the_progress_bar_moves_once_a_window(result):
    assert result["progress"] == [[i, 4] for i in range(1, 5)]


def test_cancelling_stops_within_a_window(result):
    assert result["windows_after_cancel"] == 0


def test_core_audio_nodes_and_ours_understand_each_other(result):
    assert result["ours_takes_core_audio"] and result["core_takes_our_audio"]


def test_fifty_runs_do_not_grow_the_memory(result):
    assert result["megabytes_of_50_runs"] < 20
