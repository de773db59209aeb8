"""A ComfyUI server with the pack, for the tests that talk to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.audio import noise, sine, write_audio

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """(address, folder) of a ComfyUI on the loopback address with the pack in its custom_nodes."""
    base = tmp_path_factory.mktemp("comfyui")
    for name in ("input/deep", "output", "temp", "user/default", "models/audio_encoders", "custom_nodes"):
        (base / name).mkdir(parents=True)
    (base / "custom_nodes" / "audio2img").symlink_to(ROOT)
    write_audio(base / "input" / "deep" / "tone.wav", sine(2.0, rate=44100), 44100)
    write_audio(base / "input" / "noise.flac", noise(4.0), 16000)
    # A new user is shown templates first, over the canvas.
    (base / "user" / "default" / "comfy.settings.json").write_text('{"Comfy.TutorialCompleted": true}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = base / "log.txt"
    line = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", base]
    with open(log, "w") as output:
        process = subprocess.Popen(line, cwd=os.environ["COMFYUI_PATH"], stdout=output, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/system_stats", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-4000:]
                time.sleep(0.5)
        yield address, base
    finally:
        process.terminate()
        process.wait(30)
