"""The cache of captions: what is stored and read, by one process and several, and what becomes of broken ones."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from audio2img_core.random_init import make_diffusion
from training.teacher import captions as captions_module
from training.teacher.captions import CaptionCache
from training.teacher.text_encoder import Teacher, TeacherOutput

ROOT = Path(__file__).parents[2]
CAPTIONS = ["", "rain on a tin roof", "Café, 雨の音 \U0001f327 — Übung", "a dog barks " * 40, "  two\n lines "]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """target -> folder of a tiny diffusion model."""
    made = {}

    def folder(target):
        if target not in made:
            made[target] = tmp_path_factory.mktemp("diffusion") / target
            make_diffusion(target).save_pretrained(made[target])
        return made[target]

    return folder


@pytest.fixture(scope="module")
def teacher(folders):
    return Teacher.from_pretrained(folders("sd15"), "sd15", device="cpu")


@pytest.mark.parametrize("target", ("sd15", "sdxl"))
def test_cache_holds_each_distinct_caption_once(folders, tmp_path, target):
    taught = Teacher.from_pretrained(folders(target), target, device="cpu")
    cache, steps = CaptionCache(tmp_path, taught, shard_rows=2), []
    assert cache.add(CAPTIONS + CAPTIONS[::-1], on_step=lambda *step: steps.append(step)) == len(CAPTIONS)
    assert steps == [(2, 5), (4, 5), (5, 5)]
    assert cache.add(CAPTIONS) == 0
    assert len(cache) == len(CAPTIONS) and cache.captions == CAPTIONS and CAPTIONS[2] in cache and "snow" not in cache
    whole = taught.encode(CAPTIONS, batch_size=2)  # as the shards were: another batch may round otherwise
    read = CaptionCache(tmp_path, taught.fingerprint)
    rows = torch.tensor([read.row(caption) for caption in (CAPTIONS[3], CAPTIONS[0], CAPTIONS[3])])
    assert rows.tolist() == [3, 0, 3]
    tokens = read.tokens(rows)
    assert tokens.dtype == torch.float32 and read.tokens([1], dtype=torch.float16).dtype == torch.float16
    assert torch.equal(tokens, whole.tokens[rows].half().float())
    assert torch.equal(read.mask(rows), whole.mask[rows])
    if target == "sdxl":
        assert torch.equal(read.pooled(rows), whole.pooled[rows].half().float())
    else:
        assert read.pooled(rows) is None
    halves = whole.tokens.half().float()
    torch.testing.assert_close(read.token_norms(), halves.norm(dim=-1).mean(0))
    torch.testing.assert_close(read.mean_tokens(), halves.mean(0))
    with pytest.raises(IndexError):
        read.tokens([5])
    with pytest.raises(KeyError):
        read.row("snow")
    with pytest.raises(ValueError, match="no teacher"):
        read.add(["snow"])


def test_cache_goes_on_after_a_kill(folders, teacher, tmp_path):
    folder = folders("sd15")
    code = (
        "from training.teacher.captions import CaptionCache; from training.teacher.text_encoder import Teacher\n"
        f"cache = CaptionCache({str(tmp_path)!r}, Teacher.from_pretrained({str(folder)!r}, 'sd15', device='cpu'),"
        " shard_rows=2)\n"
        "cache.add([f'sound {i}' for i in range(100000)], batch_size=1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    place, deadline = tmp_path / teacher.fingerprint, time.monotonic() + 60
    while len(list(place.glob("captions-*"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (place / ".captions-000099.safetensors.x.partial.safetensors").write_bytes(b"half a shard")
    cache = CaptionCache(tmp_path, teacher, shard_rows=2)
    kept = len(cache)
    assert kept >= 6 and kept % 2 == 0
    captions = [f"sound {i}" for i in range(kept + 3)]
    assert cache.add(captions) == 3
    assert cache.captions == captions and not list(place.glob(".*partial*"))
    last = cache.tokens([0, kept + 2])
    torch.testing.assert_close(last, teacher.encode([captions[0], captions[-1]]).tokens, atol=5e-3, rtol=0)


def test_cache_is_memory_mapped(teacher, tmp_path):
    cache = CaptionCache(tmp_path, teacher, shard_rows=4)
    cache.add([f"sound {i}" for i in range(12)])
    cache.tokens([5])
    assert list(cache._arrays) in ([0, 1], [1])  # only shards that are asked for are opened
    assert {type(array).__name__ for arrays in cache._arrays.values() for array in arrays.values()} == {"memmap"}
    pickled = pickle.dumps(cache)
    assert len(pickled) < 10_000
    copy = pickle.loads(pickled)
    assert copy.teacher is None and torch.equal(copy.tokens([5]), cache.tokens([5]))


def test_reader_sees_what_another_has_added(teacher, tmp_path):
    reader, writer = CaptionCache(tmp_path, teacher), CaptionCache(tmp_path, teacher)
    writer.add(["a"])
    assert "a" not in reader
    reader.refresh()
    assert reader.row("a") == 0
    writer.add(["b"])
    assert reader.add(["c", "b"]) == 1  # "b" is taken up, not encoded again
    assert reader.captions == ["a", "b", "c"]


def test_writers_wait_for_each_other(teacher, tmp_path):
    captions = [f"sound {i}" for i in range(40)]
    caches = [CaptionCache(tmp_path, teacher, shard_rows=4) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(lambda cache: cache.add(captions), caches)) == [0, 0, 40]
    assert all(cache.captions == captions for cache in [*caches, CaptionCache(tmp_path, teacher)])


def test_two_teachers_in_one_folder(folders, teacher, tmp_path):
    other = Teacher.from_pretrained(folders("sd21"), "sd21", device="cpu")
    caches = [CaptionCache(tmp_path, t) for t in (teacher, other)]
    caches[0].add(["rain"])
    assert len(CaptionCache(tmp_path, other)) == 0
    caches[1].add(["rain", "wind"])
    assert [len(CaptionCache(tmp_path, t)) for t in (teacher, other)] == [1, 2]
    assert caches[0].tokens([0]).shape[-1] == 768 and caches[1].tokens([0]).shape[-1] == 1024


@pytest.mark.parametrize("value", [7e4, float("inf"), float("nan")])
def test_what_float16_cannot_hold_is_not_stored(teacher, tmp_path, monkeypatch, value):
    def broken(captions, **_):
        tokens = torch.zeros(len(captions), 77, 768)
        tokens[1, 0, 5] = value
        return TeacherOutput(tokens, None, torch.ones(len(captions), 77, dtype=torch.bool))

    monkeypatch.setattr(teacher, "encode", broken)
    cache = CaptionCache(tmp_path, teacher)
    with pytest.raises(ValueError, match="float16.*'wind'"):
        cache.add(["rain", "wind"])
    assert len(cache) == 0 and not list(cache.folder.glob("*captions-*"))


def test_no_space_and_no_folder(teacher, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        CaptionCache(tmp_path / "file", teacher).add(["rain"])
    cache = CaptionCache(tmp_path / "full", teacher)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(captions_module.shutil, "disk_usage", lambda _: usage(10**6, 9 * 10**5, 10**5))
        patch.setattr(teacher, "encode", lambda *_, **__: pytest.fail("encoded before the space was looked at"))
        with pytest.raises(ValueError, match="no space for the cache: 1 captions"):
            cache.add(["rain"])

    def fills_up(tensors, file, **_):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(captions_module, "save_file", fills_up)
        with pytest.raises(ValueError, match="No space left on device"):
            cache.add(["rain"])
    assert sorted(p.name for p in cache.folder.iterdir()) == [".lock"] and cache.add(["rain"]) == 1


def test_a_damaged_shard_is_named(teacher, tmp_path):
    cache = CaptionCache(tmp_path, teacher)
    cache.add(["rain"])
    (shard,) = cache.folder.glob("captions-*")
    assert json.loads(read_metadata(shard)["audio2img_captions"]) == ["rain"]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{shard.name}: damaged"):
        CaptionCache(tmp_path, teacher)
    with pytest.raises(ValueError, match="empty"):
        CaptionCache(tmp_path / "other", teacher).mean_tokens()


def read_metadata(file):
    raw = file.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
