"""Preparing clips ahead of training: the same sounds, on many processes, resumed after a stop, found by their place."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import pytest
import torch

from audio2img_core import load_audio
from tests.helpers.audio import noise, sine, write_audio
from training.cli import main
from training.config import load_settings
from training.data.prepare import prepare
from training.data.sources import open_source
from training.loop.fit import captions_folder
from training.teacher.captions import CaptionCache
from training.teacher.text_encoder import Teacher


@pytest.fixture
def folder(tmp_path):
    """Five clips of 44.1 kHz stereo, one of them cut by a manifest, one broken."""
    for i in range(4):
        write_audio(tmp_path / f"{i}.wav", torch.stack([noise(1.5, 44100, seed=i), sine(1.5, 44100)]), 44100)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    rows = [{"audio": f"{i}.wav", "caption": [f"text {i}", f"also {i}"]} for i in range(3)]
    rows += [{"audio": "broken.wav", "caption": "x"}, {"audio": "3.wav", "caption": "cut", "start": 0.5, "end": 1.0}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def settings(folder, **more):
    flags = {"run.data": str(folder / "list.jsonl"), "run.output": str(folder / "out"), "data.max_bad_share": "0.5"}
    return load_settings("default", [], {**flags, **more})


@pytest.mark.parametrize("jobs", [1, 2])
def test_prepared_sounds_are_those_of_the_source(folder, jobs):
    steps = []
    done = prepare(settings(folder), jobs=jobs, on_clip=lambda n, total: steps.append((n, total)))
    assert (done.clips, done.bad, done.captions) == (4, 1, 7) and steps[-1] == (5, 5)
    source = open_source(folder / "out")
    assert [clip.captions for clip in source] == [
        ("text 0", "also 0"),
        ("text 1", "also 1"),
        ("text 2", "also 2"),
        ("cut",),
    ]
    for i, clip in enumerate(source):
        cut = {"start": 0.5, "duration": 0.5} if i == 3 else {}
        wanted = load_audio(folder / f"{i}.wav", **cut)[0].mean(0)
        waveform, rate = load_audio(io.BytesIO(clip.audio))
        assert rate == 16000 and waveform.shape == (1, len(wanted))
        assert (waveform[0] - wanted).abs().max() < 2e-3 + 1 / 32767
    with open(folder / "out" / "skipped.csv", newline="") as file:
        assert [row["key"] for row in csv.DictReader(file)] == ["broken.wav"]


def test_a_stopped_prepare_resumes(folder):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(settings(folder), shard_size=2, on_clip=stop)
    out = folder / "out"
    (first,) = out.glob("*.tar")
    assert not (out / "index.jsonl").exists()
    (out / ".shard-x.tar.abc.partial.tar").write_bytes(b"half")  # what a kill in the middle of a write leaves
    before = first.stat().st_mtime_ns
    assert prepare(settings(folder), shard_size=2).clips == 4
    assert first.stat().st_mtime_ns == before
    assert len(open_source(out)) == 4
    assert not list(out.glob(".*"))
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert prepare(settings(folder), shard_size=2).clips == 4  # and once more, with nothing to do
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times


def test_a_prepared_clip_is_read_from_its_place_alone(folder, monkeypatch):
    prepare(settings(folder), shard_size=3)
    source = open_source(folder / "out")
    assert not source.streaming and len(source) == 4
    stream = open_source(str(folder / "out" / "*.tar"))
    assert stream.streaming
    assert sorted((c.audio, c.captions) for c in source) == sorted((c.audio, c.captions) for c in stream)
    monkeypatch.setattr("tarfile.open", lambda *_, **__: pytest.fail("a shard was read from its beginning"))
    assert load_audio(io.BytesIO(source[3].audio))[0].shape[1] == 8000
    for path in (folder / "out").glob("*.tar"):
        path.unlink()
    assert "No such file" in source[0].problem


def test_training_on_prepared_data_is_training_on_the_files(tmp_path, tiny_folders):
    """Shuffled, an eighth held out, and its steps counted by epochs: what a stream cannot have."""
    from training.loop.fit import fit, open_data

    (tmp_path / "sounds").mkdir()
    for i in range(16):
        write_audio(tmp_path / "sounds" / f"{i:02}.wav", noise(1.0, seed=i), 16000)
        (tmp_path / "sounds" / f"{i:02}.txt").write_text(f"noise {i}")
    flags = {"run.data": str(tmp_path / "sounds"), "run.output": str(tmp_path / "out")}
    assert prepare(load_settings("default", [], flags), shard_size=5).clips == 16
    config = {"run.target": "sd15", "run.backbone": "tiny", "run.teacher": str(tiny_folders("sd15") / "diffusion")}
    config |= {"window.seconds": "1.0", "run.eval_share": "0.125", "trainer.num_train_epochs": "2"}
    config |= {"trainer.per_device_train_batch_size": "7", "trainer.use_cpu": "true"}
    configs = [
        load_settings("default", [], {**config, "run.data": str(tmp_path / data), "run.output": str(tmp_path / "run")})
        for data in ("sounds", "out")
    ]
    (files, held_files), (clips, held_clips) = map(open_data, configs)
    assert [clip.captions for clip in clips] == [clip.captions for clip in files] and len(clips) == 14
    assert list(held_clips.captions()) == list(held_files.captions()) and len(held_clips) == 2
    trainer = fit(configs[1])
    assert trainer.state.global_step == 4 and trainer.state.num_train_epochs == 2
    first, second = list(trainer.get_train_dataloader().batch_sampler), list(clips)
    assert sorted(index for batch in first for index in batch) == list(range(len(second)))
    assert [index for batch in first for index in batch] != list(range(len(second)))


@pytest.mark.parametrize(
    "change",
    [{"shard": "../list.jsonl"}, {"shard": "gone.tar"}, {"offset": "x"}, {"size": 2**40}, {"size": -1}],
)
def test_an_index_that_names_no_clip_is_refused(folder, change):
    prepare(settings(folder))
    index = folder / "out" / "index.jsonl"
    rows = [json.loads(line) for line in index.read_text().splitlines()]
    rows[1] |= change
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"index.jsonl: line 2 names no clip of a shard here; prepare it again$"):
        open_source(folder / "out")


def test_a_folder_of_clips_of_an_earlier_release_is_left_alone(folder):
    (folder / "out").mkdir()
    (folder / "out" / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds clips that are files of their own; choose another output"):
        prepare(settings(folder))


def test_fixed_crops_store_their_window_only(folder):
    prepare(settings(folder, **{"data.random_crop": "false", "window.seconds": "1.0"}))
    assert load_audio(io.BytesIO(open_source(folder / "out")[0].audio))[0].shape[1] == 16240


def test_shards_are_prepared_too(folder):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i in range(3):
            for suffix, content in ((".wav", (folder / f"{i}.wav").read_bytes()), (".txt", b"noise")):
                info = tarfile.TarInfo(f"{i}{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    assert prepare(settings(folder, **{"run.data": str(folder / "a.tar")})).clips == 3


def test_captions_are_cached_where_fit_finds_them(folder, tiny_folders, capsys):
    teacher = tiny_folders("sd15") / "diffusion"
    words = ["--data", str(folder / "list.jsonl"), "--output", str(folder / "out"), "--teacher", str(teacher)]
    assert main(["prepare", *words, "--data.max_bad_share", "0.5", "--jobs", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(folder / "out") and "4 clips, 7 captions, 1 clips left out" in captured.err
    config = load_settings("default", [], {"run.data": str(folder / "out"), "run.output": "elsewhere"})
    cache = CaptionCache(captions_folder(config), Teacher.from_pretrained(teacher, "sd15"))
    assert len(cache) == 7 and "also 2" in cache


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run.data": ""}, "run.data is empty"),
        ({"run.data": "/no/such/list.csv"}, "no such manifest"),
        ({"run.output": "/proc/nowhere"}, "cannot be written"),
        ({"data.max_bad_share": "0.05"}, "list.jsonl"),
    ],
)
def test_bad_settings(folder, capsys, changes, message):
    if "data.max_bad_share" in changes:  # all bad
        for i in range(4):
            (folder / f"{i}.wav").write_bytes(b"no sound")
        message = "5 of 5 clips tried .* are bad"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(settings(folder, **changes))


def test_other_settings_need_another_folder(folder):
    prepare(settings(folder))
    with pytest.raises(ValueError, match="was made with another max_seconds; choose another output"):
        prepare(settings(folder, **{"data.max_seconds": "1.0"}))


def test_shards_are_resumed_and_a_few_bad_clips_are_still_a_few(tmp_path):
    """At a second call only the bad ones are left, all of which are bad."""
    rows = []
    for i in range(30):
        write_audio(tmp_path / f"{i}.wav", noise(0.3, seed=i), 16000)
        rows.append(json.dumps({"audio": f"{i}.wav", "caption": f"text {i}"}) + "\n")
    (tmp_path / "0.wav").write_bytes(b"no sound")
    (tmp_path / "list.jsonl").write_text("".join(rows))
    config = settings(tmp_path, **{"run.output": "memory://ready", "data.max_bad_share": "0.05"})
    for _ in range(2):
        done = prepare(config, shard_size=8)
        assert (done.clips, done.bad) == (29, 1)


def test_a_prepared_folder_is_found_by_any_name(folder, monkeypatch):
    prepare(settings(folder))
    monkeypatch.chdir(folder)
    for name in ("out", "./out", str(folder / "out")):
        assert len(open_source(name)) == 4
    monkeypatch.chdir(folder / "out")
    assert len(open_source(".")) == 4


def test_clips_of_shards_of_one_name_are_told_apart(folder):
    for name in ("a", "b"):
        (folder / "in" / name).mkdir(parents=True)
        with tarfile.open(folder / "in" / name / "0.tar", "w") as tar:
            for suffix, content in ((".wav", (folder / "0.wav").read_bytes()), (".txt", name.encode())):
                member = tarfile.TarInfo(f"x{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    config = settings(folder, **{"run.data": str(folder / "in"), "run.output": "memory://told-apart"})
    assert prepare(config).clips == 2
    assert sorted(open_source("memory://told-apart").captions()) == [("a",), ("b",)]
