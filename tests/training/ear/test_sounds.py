"""Sounds: the store, folders, licences, splits, the manifest, credits, and packing."""

from __future__ import annotations

import json
import subprocess
import wave
from pathlib import Path

import pytest
import torch

from training.recipes.mini.ear import pack
from training.recipes.mini.ear.build import add_folder, freesound_ids
from training.recipes.mini.ear.credits import credits_of
from training.recipes.mini.ear.licences import permissive
from training.recipes.mini.ear.manifest import fetch, read_manifest, write_manifest
from training.recipes.mini.ear.splits import UNKNOWN_KINDS, assign_splits
from training.recipes.mini.ear.store import StoreWriter, loud_starts, read_audio, read_index, write_index
from training.recipes.mini.ear.teacher import RATE


def write_wave(path: Path, sound: torch.Tensor) -> None:
    """Write [T] float as mono of 16 bits at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((sound * 32767).to(torch.int16).numpy().tobytes())


def test_store_keeps_what_was_added_and_drops_what_was_not_finished(tmp_path):
    writer = StoreWriter(tmp_path)
    assert writer.add(torch.tensor([0.1, -0.2, 0.0]), {"id": "a"})
    assert not writer.add(torch.tensor([0.1]), {"id": "a"})
    assert not writer.add(torch.zeros(9), {"id": "silent"})
    with (tmp_path / "audio.i16").open("ab") as file:
        file.write(b"half a clip!")
    with (tmp_path / "index.jsonl").open("a") as file:
        file.write('{"id": "b", "st')
    writer = StoreWriter(tmp_path)
    assert writer.add(torch.ones(2), {"id": "b"})
    assert [(row["id"], row["start"], row["samples"]) for row in read_index(tmp_path)] == [("a", 0, 3), ("b", 3, 2)]
    peak = round(0.9 * 32767)
    assert read_audio(tmp_path).tolist() == [round(peak / 2), -peak, 0, peak, peak]


def test_index_is_replaced_at_once(tmp_path):
    write_index(tmp_path, [{"id": "x", "start": 0, "samples": 1}])
    assert read_index(tmp_path)[0]["id"] == "x"
    assert not list(tmp_path.glob("*.part"))


def test_crops_start_where_it_is_not_quiet():
    audio = torch.zeros(4 * RATE, dtype=torch.int16)
    audio[3 * RATE :] = 1000
    (starts,) = loud_starts(audio, [{"start": 0, "samples": len(audio)}], 1.0)
    assert starts.min() > 2 * RATE
    assert starts.max() <= 3 * RATE


def test_folder_is_read_with_its_kinds_and_without_excluded_ids(tmp_path):
    rows = []
    for name, source in (("a", "freesound:123456"), ("b", "x:1"), ("c", "y")):
        write_wave(tmp_path / f"{name}.wav", torch.rand(16_000) - 0.5)
        rows.append({"audio": f"{name}.wav", "kind": "dog", "licence": "CC0", "source": source, "path": f"{name}.wav"})
    (tmp_path / "sounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    writer = StoreWriter(tmp_path / "store")
    assert add_folder(writer, tmp_path, excluded={123456}) == 2
    assert [row["source"] for row in writer.rows] == ["x:1", "y"]
    assert add_folder(writer, tmp_path, excluded={123456}) == 0
    assert freesound_ids({"source": "a", "path": "x/27353__junggle.wav"}) == [27353]


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [("CC0", 1), ("CC BY 3.0", 1), ("CC-BY-4.0", 1), ("MIT (repo); NOAA", 1), ("Public domain (NPS)", 1)]
    + [("CC BY-SA 3.0", 0), ("CC-BY-NC", 0), ("GPL-3.0-or-later", 0), ("ODbL+DbCL", 0), ("ODC-BY 1.0", 0), ("?", 0)],
)
def test_only_permissive_licences_are_trained_on(licence, allowed):
    assert permissive({"licence": licence, "source": "s"}) == bool(allowed)


def test_splits_keep_sources_apart_and_hold_kinds_out():
    rows = [
        {"kind": kind, "source": f"{kind}{i}", "licence": "CC0"}
        for kind in ("dog", "rain")
        for i in range(9)
        for _ in "ab"
    ]
    rows += [{"kind": "cow", "source": "one", "licence": "CC0"}, {"kind": "cow", "source": "sa", "licence": "GPL-2.0"}]
    rows += [{"kind": UNKNOWN_KINDS[0], "source": "dog0", "licence": "CC0"}]
    rows += [{"kind": None, "source": "judge", "licence": "CC0"}]
    assign_splits(rows, judge_sources=["judge", "dog3"])
    of: dict[str, set[str]] = {}
    for row in rows:
        if row["kind"] in ("dog", "rain", "cow"):
            of.setdefault(row["source"], set()).add(row["split"])
    assert all(len(each) == 1 for each in of.values())
    assert of["dog3"] == of["sa"] == {"test"}
    assert of["one"] == {"train"}
    for kind in ("dog", "rain"):
        splits = [row["split"] for row in rows if row["kind"] == kind]
        assert {split: splits.count(split) for split in set(splits)} == {"train": 12, "valid": 2, "test": 4}
    assert rows[-2]["split"] == "unknown"
    assert rows[-1]["split"] == "unused"
    before = [row["split"] for row in rows]
    rows += [{"kind": "dog", "source": f"new{i}", "licence": "CC0"} for i in range(20)]
    assign_splits(rows, judge_sources=["judge", "dog3"])
    assert [row["split"] for row in rows[: len(before)]] == before
    assert {row["split"] for row in rows[len(before) :]} == {"train", "valid", "test"}


def test_originals_are_fetched_by_commit_and_path(tmp_path):
    from training.recipes.mini.ear.manifest import read_manifest

    origin = tmp_path / "host" / "someone" / "sounds"
    origin.mkdir(parents=True)
    (origin / "a b.wav").write_bytes(b"one")
    (origin / "c.wav").write_bytes(b"two")

    def git(*words: str) -> str:
        names = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        done = subprocess.run(["git", "-C", str(origin), *names, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "Add sounds")
    commit = git("rev-parse", "HEAD")
    common = {"repository": "someone/sounds", "commit": commit, "licence": "CC0", "split": "train"}
    rows = [{**common, "path": "a b.wav", "kind": kind, "source": "s"} for kind in (None, "dog")]
    rows += [{**common, "path": "gone.wav", "kind": "cat", "source": "t"}, {"path": "x", "package": "debian"}]
    assert write_manifest(rows, tmp_path) == 2
    manifest = read_manifest(tmp_path)
    assert [(row["path"], row["kind"], row["commit"]) for row in manifest] == [
        ("a b.wav", "dog", commit),
        ("gone.wav", "cat", commit),
    ]
    (tmp_path / "out").mkdir()
    kept = fetch(tmp_path / "out", host=(tmp_path / "host").as_uri(), rows=manifest[:1])
    assert (tmp_path / "out" / kept[0]["audio"]).read_bytes() == b"one"
    assert not list((tmp_path / "out").rglob("c.wav"))
    assert fetch(tmp_path / "out", host="nowhere", rows=manifest[:1]) == kept


def test_committed_manifest_trains_on_permissive_licences_alone():
    rows = read_manifest()
    trained = [row for row in rows if row["split"] in ("train", "valid")]
    assert len(trained) > 2000
    assert all(permissive(row) for row in trained)
    judged = {row["source"] for row in rows if row["split"] == "test"}
    assert not judged & {row["source"] for row in trained}
    assert not set(UNKNOWN_KINDS) & {row["kind"] for row in trained}


def test_credits_name_what_was_trained_on_and_refuse_what_must_not_be():
    row = {"id": "1", "repository": "a/b", "commit": "0" * 40, "licence": "CC BY 3.0", "source": "s", "path": "x.ogg"}
    text = credits_of([{**row, "split": "train"}, {**row, "split": "test", "source": "judge"}])
    assert "## a/b 000000000000" in text
    assert "- s: x.ogg" in text
    assert "judge" not in text
    with pytest.raises(ValueError, match="GPL-2.0"):
        credits_of([{**row, "split": "train", "licence": "GPL-2.0"}])


def test_a_packed_store_comes_back_nearly_the_same(tmp_path):
    pytest.importorskip("soundfile")
    writer = StoreWriter(tmp_path / "here")
    time = torch.arange(RATE) / RATE
    for i, hz in enumerate((300, 440, 1000)):
        sound = torch.sin(2 * torch.pi * hz * time) * torch.linspace(0, 1, RATE)
        writer.add(sound, {"id": f"{i}", "kind": None, "source": "s", "licence": "CC0", "split": "train"})
    parts = pack.pack(tmp_path / "here", tmp_path / "parts", seconds=0.9)
    assert [part.name for part in parts] == ["part-0"]
    assert pack.unpack(parts, tmp_path / "there") == 3
    before, after = read_index(tmp_path / "here"), read_index(tmp_path / "there")
    for old, new in zip(before, after, strict=True):
        assert (new["id"], new["split"], new["samples"]) == (old["id"], "train", round(0.9 * RATE))
        one = read_audio(tmp_path / "here")[old["start"] :][: new["samples"]].float()
        two = read_audio(tmp_path / "there")[new["start"] :][: new["samples"]].float()
        assert torch.cosine_similarity(one, two, dim=0) > 0.99
