"""The pack through ComfyUI's HTTP API: what it says of its nodes, and workflows that are posted."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import workflows

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not os.environ.get("COMFYUI_PATH"), reason="COMFYUI_PATH names no ComfyUI checkout"),
]


@pytest.fixture(scope="module")
def api(server):
    """Function path, data -> what the server answers, as JSON or as bytes."""
    address, _ = server

    def ask(path, data=None, *, raw=False):
        body = None if data is None else json.dumps(data).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(address + path, body, headers), timeout=60) as answer:
            return answer.read() if raw else json.loads(answer.read())

    return ask


def run(api, prompt):
    """Post a workflow and wait for its end; node -> outputs."""
    key = api("/prompt", {"prompt": prompt})["prompt_id"]
    for _ in range(600):
        if done := api(f"/history/{key}").get(key):
            assert done["status"]["status_str"] == "success", done["status"]["messages"]
            return done["outputs"]
        time.sleep(0.2)
    raise AssertionError("the workflow did not end")


def picture(api, output):
    (saved,) = output["images"]
    data = api("/view?" + urllib.parse.urlencode(saved), raw=True)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def spectrogram(name):
    return {
        "1": {"class_type": "Audio2ImgLoadAudio", "inputs": {"audio_file": name, "start": 0.5, "duration": 1.0}},
        "2": {"class_type": "Audio2ImgSpectrogram", "inputs": {"audio": ["1", 0], "width": 480, "height": 240}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


def test_the_server_knows_every_node_with_its_texts(api):
    known = {key: said for key, said in api("/object_info").items() if key.startswith("Audio2Img")}
    assert len(known) == 9
    for key, said in known.items():
        assert said["description"] and said["category"] == "audio2img" and said["output_tooltips"], key
        for group in ("required", "optional"):
            assert all(options["tooltip"] for _, options in said["input"].get(group, {}).values()), key
    files = known["Audio2ImgLoadAudio"]["input"]["required"]["audio_file"][0]
    assert {"deep/tone.wav", "noise.flac"} <= set(files)


def test_a_posted_workflow_gives_the_picture_that_the_library_draws(api, server):
    from audio2img_core.audio.excerpt import Excerpt
    from audio2img_core.audio.waveform import read_clips
    from audio2img_core.plots import draw_spectrogram

    _, base = server
    drawn = {}
    for name in ("deep/tone.wav", "noise.flac"):
        drawn[name] = picture(api, run(api, spectrogram(name))["3"])
        sound = read_clips(base / "input" / name, Excerpt(0.5, 1.0))[0]
        ours = np.asarray(draw_spectrogram(sound, width=480, height=240)).astype(int)
        assert np.abs(drawn[name] - ours).mean() < 0.5
    assert np.abs(drawn["deep/tone.wav"] - drawn["noise.flac"]).mean() > 10


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("1", {"audio_file": "gone.wav"}, "gone.wav"),
        ("1", {"audio_file": "../secret.wav"}, "input folder"),
        ("2", {"width": 10}, "width"),
    ],
)
def test_bad_inputs_are_refused_with_a_reason_before_anything_runs(api, node, inputs, message):
    prompt = spectrogram("noise.flac")
    prompt[node]["inputs"] |= inputs
    with pytest.raises(urllib.error.HTTPError) as refused:
        api("/prompt", {"prompt": prompt})
    assert refused.value.code == 400 and message in refused.value.read().decode()


OUTSIDE = [
    *(
        "../secret.wav",
        "deep/../../secret.wav",
        "{base}/secret.wav",
        "/{base}/secret.wav",
        "{base}/input/../secret.wav",
    ),
    *("/etc/hostname", "/proc/self/environ", "/dev/zero", "~/secret.wav", "file://{base}/secret.wav"),
    *("..\\secret.wav", "C:\\secret.wav", "\\\\localhost\\share\\secret.wav", "//localhost/share/secret.wav"),
    *("link.wav", "linked/secret.wav", "loop.wav", "a\0.wav", "../secret.wav\0", "concat:{base}/secret.wav", "", "."),
    *("../secret.wav [input]", "../secret.wav [output]", "../../secret.wav [temp]", "../README.md [example]"),
    *("{base}/secret.wav [output]", "x" * 300 + ".wav", 5, True, {"a": 1}),
]


@pytest.fixture(scope="module")
def secret(server):
    """A sound beside the input folder, and links to it within."""
    _, base = server
    shutil.copy(base / "input" / "noise.flac", base / "secret.wav")
    links = {"link.wav": base / "secret.wav", "linked": base, "loop.wav": "loop.wav"}
    for name, target in links.items():
        (base / "input" / name).symlink_to(target)
    yield base
    for name in links:
        (base / "input" / name).unlink()


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_reaches_a_file_outside_of_the_input_folder(api, secret, name):
    prompt = spectrogram("noise.flac")
    prompt["1"]["inputs"]["audio_file"] = name.replace("{base}", str(secret)) if isinstance(name, str) else name
    with pytest.raises(urllib.error.HTTPError) as refused:
        api("/prompt", {"prompt": prompt})
    said = json.loads(refused.value.read())
    assert refused.value.code == 400 and said["node_errors"]["1"]["errors"], said
    assert "exception_during_validation" not in json.dumps(said), said


def test_the_names_on_offer_reach_none_either(api, secret):
    offered = api("/object_info")["Audio2ImgLoadAudio"]["input"]["required"]["audio_file"][0]
    assert not {"link.wav", "linked/secret.wav", "loop.wav"} & set(offered) and "noise.flac" in offered


@pytest.mark.parametrize("name", ["../secret", "/etc", "mini/../mini", "..\\secret", "a\0", "", 5, "someone/encoder"])
def test_no_name_of_an_encoder_reaches_a_file_outside_of_the_models_folder(api, name):
    prompt = {
        "1": {"class_type": "Audio2ImgLoadEncoder", "inputs": {"encoder_name": name, "dtype": "auto"}},
        "2": {"class_type": "Audio2ImgLoadAudio", "inputs": {"audio_file": "noise.flac", "start": 0, "duration": 1}},
        "3": {"class_type": "Audio2ImgEncode", "inputs": {"encoder": ["1", 0], "audio": ["2", 0]}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    }
    with pytest.raises(urllib.error.HTTPError) as refused:
        api("/prompt", {"prompt": prompt})
    assert refused.value.code == 400 and json.loads(refused.value.read())["node_errors"]["1"]["errors"]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../README.md",
            "..%2fREADME.md",
            "%2e%2e/README.md",
            "%2e%2e%2fREADME.md",
            "..%5cREADME.md",
            "....//README.md",
        ),
        *("/etc/hostname", "%2fetc%2fhostname", "{root}/README.md", "piano.flac/../../README.md", "%00", "."),
    ],
)
def test_the_route_of_the_examples_hands_out_examples_only(server, path):
    """Asked for as it stands: a client would tidy the path first."""
    address = server[0].removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.putrequest("GET", "/audio2img/examples/" + path.replace("{root}", str(ROOT)), skip_host=False)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status in (400, 403, 404), answer.status
    assert b"audio2img" not in answer.read()
    connection.close()
    assert urllib.request.urlopen(f"{server[0]}/audio2img/examples/drum.flac", timeout=30).status == 200


@pytest.mark.parametrize("name", workflows.WITHOUT_DOWNLOADS)
def test_example_workflows_run_as_they_are(api, name):
    known = api("/object_info")
    prompt = workflows.to_prompt(workflows.load(name), known)
    outputs = run(api, prompt)
    shown = [key for key, node in prompt.items() if known[node["class_type"]]["output_node"]]
    assert shown and set(shown) <= set(outputs)
    for key in shown:
        for saved in outputs[key].get("images", ()):
            assert len(api("/view?" + urllib.parse.urlencode(saved), raw=True)) > 1000


def test_frames_change_with_the_sound(api):
    prompt = workflows.to_prompt(workflows.load("sound_driven_frames"), api("/object_info"))
    (save,) = workflows.of_type(prompt, "SaveAnimatedWEBP")
    (saved,) = run(api, prompt)[save]["images"]
    with Image.open(io.BytesIO(api("/view?" + urllib.parse.urlencode(saved), raw=True))) as film:
        assert film.size == (128, 128) and film.n_frames == 40  # 5 s at 8 a second
        frames = []
        for index in range(film.n_frames):
            film.seek(index)
            frames.append(np.asarray(film.convert("RGB")).astype(int))
    assert np.abs(frames[0] - frames[-1]).mean() > 1


def test_two_sounds_become_what_the_command_line_draws(api, tmp_path):
    """The same seed and sampler in both; ComfyUI does not round the steps' times: a mean of less than 1 of 255."""
    prompt = workflows.to_prompt(workflows.load("sound_to_image"), api("/object_info"))
    ((load,), (save,)) = (workflows.of_type(prompt, kind) for kind in ("Audio2ImgLoadAudio", "SaveImage"))
    drawn = {}
    for name in ("piano", "rain"):
        prompt[load]["inputs"]["audio_file"] = f"{name}.flac [example]"
        drawn[name] = picture(api, run(api, prompt)[save])
        file = str(ROOT / "examples" / f"{name}.flac")
        line = [sys.executable, "-m", "audio2img_core.cli", "generate", file, "-o", str(tmp_path / "ours.png")]
        subprocess.run([*line, "--seed", "1"], check=True, cwd=ROOT)
        ours = np.asarray(Image.open(tmp_path / "ours.png").convert("RGB")).astype(int)
        (tmp_path / "ours.png").unlink()
        assert np.abs(drawn[name] - ours).mean() < 1
    assert np.abs(drawn["piano"] - drawn["rain"]).mean() > 20
