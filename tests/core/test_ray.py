"""The engine `ray`: a cluster of three nodes on this machine, of which one is killed, gives what one process gives."""

from __future__ import annotations

import collections
import json
import threading
import time

import pytest
import torch
from safetensors import safe_open

from audio2img_core.batch import embed
from audio2img_core.cli import main
from audio2img_core.encoder.checkpoint import save_single_file
from audio2img_core.random_init import make_encoder
from tests.helpers.audio import noise, write_audio
from training.cli import main as train
from training.data.sources import open_source

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
COUNTS = [120, pytest.param(2000, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def cluster():
    """A head without processors; its nodes, of one processor each, are added by `nodes`."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def nodes(cluster):
    """Three nodes of the cluster, two of which say that they have a GPU; a killed one is replaced for the next test."""
    wanted = (1, 1, 0)
    while len(cluster.worker_nodes) < len(wanted):
        cluster.add_node(num_cpus=1, num_gpus=wanted[len(cluster.worker_nodes)])
    return sorted(cluster.worker_nodes, key=lambda node: -node.get_resource_and_label_spec().num_gpus)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Function count -> a folder of so many captioned clips of 0.2 s, some of them broken, and their manifest."""
    made = {}

    def folder_of(count: int):
        if count not in made:
            folder = made[count] = tmp_path_factory.mktemp("clips")
            for i in range(count):
                if i in broken(count):
                    (folder / f"{i:04}.wav").write_bytes(b"no sound")
                else:
                    write_audio(folder / f"{i:04}.wav", noise(0.2, seed=i), 16_000)
            rows = [json.dumps({"audio": f"{i:04}.wav", "caption": f"noise {i}"}) + "\n" for i in range(count)]
            (folder / "list.jsonl").write_text("".join(rows))
        return made[count]

    return folder_of


def broken(count: int) -> range:
    """The numbers of the clips that hold no sound: 7 of 120, 17 of 2,000."""
    return range(count // 40, count, max(17, count // 17))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny one, untrained."""
    file = tmp_path_factory.mktemp("encoder") / "tiny.safetensors"
    save_single_file(make_encoder("sd15", head="query"), file)
    return str(file)


def embeddings(folder):
    """Every tensor by its name, from all parts; each must be in one of them only."""
    found = {}
    for part in folder.glob("*.safetensors"):
        with safe_open(part, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                assert name not in found, f"{name} is there twice"
                found[name] = opened.get_tensor(name)
    return found


@pytest.mark.slow  # Ray takes half a minute to notice a dead node
@pytest.mark.parametrize("count", [2000])
def test_encode_with_a_node_killed_in_the_middle(cluster, nodes, clips, encoder, tmp_path, count):
    here, there = tmp_path / "here", tmp_path / "there"
    killed = threading.Event()

    def kill():
        while len(list(there.glob("*.safetensors"))) < 5:
            time.sleep(0.01)
        cluster.remove_node(nodes[0], allow_graceful=False)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    arguments = ["encode", str(clips(count)), "--encoder", encoder, "--shard-size", str(max(2, count // 80))]
    arguments += ["--dtype", "float32"]
    assert main([*arguments, "-o", str(there), "--engine", "ray"]) == 2
    assert killed.is_set()
    end = time.monotonic() + 60  # the cluster may notice a little later
    while sum(node["Alive"] for node in ray.nodes()) > 3 and time.monotonic() < end:
        time.sleep(0.05)
    assert sum(node["Alive"] for node in ray.nodes()) == 3
    assert main([*arguments, "-o", str(here)]) == 2

    wanted, found = embeddings(here), embeddings(there)
    assert found.keys() == wanted.keys()
    assert len({name.rpartition("/")[0] for name in found}) == count - len(broken(count))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
    for name in ("index.jsonl", "skipped.csv"):
        lines = [sorted((folder / name).read_text().splitlines()) for folder in (here, there)]
        assert lines[0] == lines[1]
    # Nothing is left to do, with or without Ray.
    times = {part: part.stat().st_mtime_ns for part in there.glob("*.safetensors")}
    assert main([*arguments, "-o", str(there), "--engine", "ray"]) == 2
    assert {part: part.stat().st_mtime_ns for part in there.glob("*.safetensors")} == times


@pytest.mark.parametrize("count", COUNTS)
def test_prepare_gives_the_clips_of_the_local_engine(nodes, clips, tmp_path, count):
    settings = ["--data", str(clips(count) / "list.jsonl"), "--data.max_bad_share", "0.1", "--data.min_seconds", "0.1"]
    for engine in ("local", "ray"):
        output = ["--output", str(tmp_path / engine), "--engine", engine, "--shard-size", str(count * 3 // 20)]
        output += ["--jobs", "1"]
        assert train(["prepare", *settings, *output]) == 0
    files, shards = open_source(tmp_path / "local"), open_source(tmp_path / "ray")
    assert len(list((tmp_path / "ray").glob("*.tar"))) == 7
    with_captions = collections.Counter(clip.captions for clip in shards)
    assert with_captions == collections.Counter(files.captions()) == collections.Counter(shards.captions())
    assert set(with_captions.values()) == {1}
    sounds = {clip.captions: clip.audio for clip in shards}
    assert sounds == {clip.captions: clip.audio for clip in files}
    lists = [sorted((tmp_path / engine / "skipped.csv").read_text().splitlines()) for engine in ("local", "ray")]
    assert lists[0] == lists[1] and len(lists[0]) > len(broken(count))


def test_a_fault_on_the_cluster_is_one_line(nodes, clips, encoder, tmp_path, capsys, monkeypatch):
    # As if another machine found another encoder at that name.
    def settings_of(*arguments, **options):
        return {**real(*arguments, **options), "encoder": "0123456789abcdef"}

    real = embed.settings_of
    monkeypatch.setattr(embed, "settings_of", settings_of)
    arguments = ["encode", str(clips(120) / "0000.wav"), "-o", str(tmp_path / "out"), "--engine", "ray"]
    assert main([*arguments, "--encoder", encoder]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "audio2img" in line]
    assert line == f"audio2img: error: {encoder}: differs from the encoder that this job was started with"
