"""`--push-to-hub`, to a small hub of our own on this machine that speaks the hub's protocol."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from audio2img_core import AudioEncoder

ROOT = Path(__file__).parents[2]


class Hub(BaseHTTPRequestHandler):
    """Keeps the files of a commit in `store`; asks for large ones in the commit too, which the real hub does not."""

    store: dict[str, bytes] = {}
    asked: list[str] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(self.path)
        here = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            self.answer({"url": f"{here}/someone/rain", "name": "someone/rain", "id": "0"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.store[value["path"]] = base64.b64decode(value["content"])
            self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": f"{here}/someone/rain/commit/0"})
        else:
            self.answer({}, 404)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.answer({"name": "someone", "type": "user", "orgs": [], "auth": {}})

    def answer(self, value: dict, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.slow
def test_the_encoder_is_pushed_with_its_card_and_pictures(words, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_test"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    flags = words(tmp_path / "run", **{"trainer.max_steps": "2", "run.licence": "CC-BY-4.0"})
    program = [sys.executable, "-m", "training", "fit", *flags, "--push-to-hub", "someone/rain"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=240)
    server.shutdown()
    assert done.returncode == 0, done.stderr + str(Hub.asked)
    pushed = Hub.store
    assert {"config.json", "model.safetensors", "README.md", "losses.png", "norms.png", "similarity.png"} <= set(pushed)
    assert not [name for name in pushed if name.startswith("checkpoint-")]
    card = pushed["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["license_name"] == "CC-BY-4.0" and "| R@1, audio to text |" in card
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(pushed[name])
    encoder = AudioEncoder.from_pretrained(tmp_path)
    assert encoder.config.architectures == ["AudioEncoder"] and encoder.config.training["steps"] == 2
