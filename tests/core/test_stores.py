"""Addresses: sounds, manifests, shards and results in an S3 store, which is a real server on this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
from safetensors.torch import load, load_file

from audio2img_core.cli import main
from audio2img_core.storage import paths as addresses
from tests.helpers.audio import noise, write_audio
from training.cli import main as train
from training.data.config import DataConfig
from training.data.reading import read_clip
from training.data.sources import open_source

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
pytest.importorskip("moto")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An empty bucket; the environment says where its server is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = open(tmp_path_factory.mktemp("moto") / "log", "wb")  # noqa: SIM115
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    names = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        for _ in range(300):
            try:
                urllib.request.urlopen(names["AWS_ENDPOINT_URL"], timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        fsspec.filesystem("s3").mkdir("lab")
        yield "s3://lab"
    server.kill()
    server.wait()
    log.close()


@pytest.fixture(scope="module")
def sounds(store, tmp_path_factory):
    """Five captioned sounds as a folder and as a manifest, here and in the store."""
    here = tmp_path_factory.mktemp("here")
    rows = []
    for i in range(5):
        write_audio(here / f"{i}.flac", noise(1.0, 22_050, seed=i), 22_050)
        (here / f"{i}.txt").write_text(f"noise {i}\n")
        rows.append(json.dumps({"audio": f"{i}.flac", "caption": f"noise {i}"}) + "\n")
    for path in sorted(here.iterdir()):
        addresses.write(f"{store}/sounds/{path.name}", path.read_bytes())
    addresses.write(f"{store}/sounds/.hidden.flac", b"")
    (here / "list.jsonl").write_text("".join(rows))
    addresses.write(f"{store}/sounds/list.jsonl", "".join(rows).encode())
    return here


def test_files_of_a_store(store, sounds):
    name = f"{store}/sounds/1.flac"
    content = (sounds / "1.flac").read_bytes()
    assert addresses.read(name) == content and addresses.read(name, 10, 20) == content[10:20]
    with addresses.opened(name) as file:
        assert file.name == name and file.seekable()
        file.seek(100)
        assert file.read(7) == content[100:107]
    assert addresses.kind(name) == "file" and addresses.kind(f"{store}/sounds") == "folder"
    assert addresses.kind(f"{store}/nothing") is None
    flacs = [f"{store}/sounds/{i}.flac" for i in range(5)]
    assert addresses.matching(f"{store}/sounds/*.flac") == [f"{store}/sounds/.hidden.flac", *flacs]
    below = addresses.files_below(f"{store}/sounds")
    assert [file for file in below if file.endswith("flac")] == flacs
    with pytest.raises(FileNotFoundError, match=f"^{store}/nothing.wav: no such file$"):
        addresses.read(f"{store}/nothing.wav")


def test_encode_from_store_to_store(store, sounds, tmp_path, capsys):
    assert main(["encode", str(sounds), "-o", str(tmp_path / "here")]) == 0
    for given in (f"{store}/sounds", f"{store}/sounds/list.jsonl"):
        out = f"{store}/out-{given[-5:]}"
        assert main(["encode", given, "-o", out, "--shard-size", "2"]) == 0
        index = [json.loads(line) for line in addresses.read(f"{out}/index.jsonl").splitlines()]
        assert [line["sound"] for line in index] == [f"{store}/sounds/{i}.flac" for i in range(5)]
        (part,) = (tmp_path / "here").glob("*.safetensors")
        here = load_file(part)
        for i, line in enumerate(index):
            there = load(addresses.read(f"{out}/{line['shard']}"))[f"{line['sound']}/tokens"]
            assert torch.equal(there, here[f"{sounds.as_posix()}/{i}.flac/tokens"])
        capsys.readouterr()
        assert main(["encode", given, "-o", out, "--shard-size", "2"]) == 0
        assert "5 of 5 sounds are encoded already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "/list.jsonl"])
def test_training_data_in_a_store(store, sounds, name):
    here, there = open_source(sounds), open_source(f"{store}/sounds{name}")
    assert [clip.captions for clip in there] == [clip.captions for clip in here] == [(f"noise {i}",) for i in range(5)]
    config = DataConfig()
    for a, b in zip(here, there, strict=True):
        assert torch.equal(read_clip(a, config), read_clip(b, config))


def test_prepare_from_store_to_store_and_train_on_it(store, sounds, tmp_path, capsys):
    settings = ["--run.data", f"{store}/sounds", "--window.seconds", "1", "--run.target", "mini"]
    assert train(["prepare", *settings, "--run.output", f"{store}/ready", "--shard-size", "2"]) == 0
    assert capsys.readouterr().out.strip() == f"{store}/ready"
    assert train(["prepare", *settings, "--run.output", str(tmp_path / "ready")]) == 0
    source, files = open_source(f"{store}/ready"), open_source(tmp_path / "ready")
    assert len(source) == len(files) == 5
    assert [clip.captions for clip in source] == list(source.captions()) == list(files.captions())
    assert [clip.audio for clip in source] == [clip.audio for clip in files]  # the same FLAC
    stream = open_source(f"{store}/ready/*.tar")
    assert stream.streaming and len(stream.shards) == 3
    assert sorted(stream.captions()) == list(files.captions())
    assert addresses.read(f"{store}/ready/skipped.csv").decode().split() == ["key,reason"]
    run = ["--run.data", f"{store}/ready", "--run.eval_data", f"{store}/ready", "--run.teacher", "mini"]
    run += ["--run.target", "mini", "--run.backbone", "tiny", "--run.output", str(tmp_path / "run")]
    run += ["--trainer.max_steps", "2", "--trainer.per_device_train_batch_size", "2"]
    run += ["--trainer.dataloader_num_workers", "1", "--window.seconds", "1", "--trainer.use_cpu", "true"]
    assert train(["fit", *run]) == 0
    assert (tmp_path / "run" / "encoder.safetensors").is_file()


def test_what_a_store_refuses_is_said_in_one_line(store, sounds, monkeypatch, capsys):
    assert main(["encode", "s3://nobucket/x.wav", "-o", f"{store}/o"]) == 2
    assert main(["encode", str(sounds / "1.flac"), "-o", "s3://nobucket/o"]) == 2
    assert main(["encode", "s3://lab/nothing-{0..2}.tar", "-o", f"{store}/o"]) == 2
    assert train(["prepare", "--run.data", f"{store}/nothing", "--run.output", "x"]) == 2
    prepare = ["--run.data", f"{store}/sounds", "--run.output", f"{store}/x", "--run.teacher", "mini"]
    assert train(["prepare", *prepare, "--run.target", "mini"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5, lines
    assert "s3://nobucket/x.wav: no such file" in lines[0] and "s3://nobucket/o" in lines[1]
    assert "no such shard" in lines[2] and "no such file or folder" in lines[3] and "run.captions" in lines[4]
