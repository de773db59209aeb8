"""From clips to batches: what an item is, that it is reproducible, and what becomes of bad clips."""

from __future__ import annotations

import csv
import io
import pickle
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from audio2img_core.audio.clips import AudioClip
from audio2img_core.audio.mel import num_frames
from tests.helpers.audio import noise, sine, write_audio
from training.data.clips import Source
from training.data.config import DataConfig
from training.data.dataset import ClipDataset, ClipStream, clip_items, collate, seeded
from training.data.reading import read_clip
from training.data.shards import TarSource
from training.data.skiplog import SkipLog

PLAIN = DataConfig(window_seconds=1.0, random_crop=False, gain_db=0.0)
SIZE = PLAIN.samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve good clips of 2.5 s, each another noise; bad ones of every kind."""
    path = tmp_path_factory.mktemp("clips")
    for index in range(12):
        write_audio(path / f"good{index}.wav", noise(2.5, seed=index), 16_000)
    write_audio(path / "short.wav", sine(0.05), 16_000)
    write_audio(path / "silent.flac", torch.zeros(40_000), 16_000)
    (path / "broken.mp3").write_bytes(b"no sound" * 500)
    (path / "empty.wav").write_bytes(b"")
    return path


def good(folder: Path, count: int = 12) -> list[AudioClip]:
    return [AudioClip(f"good{i}", str(folder / f"good{i}.wav"), (f"text {i}", f"also {i}")) for i in range(count)]


def bad(folder: Path) -> list[AudioClip]:
    return [
        AudioClip("short", str(folder / "short.wav"), ("x",)),
        AudioClip("silent", str(folder / "silent.flac"), ("x",)),
        AudioClip("broken", str(folder / "broken.mp3"), ("x",)),
        AudioClip("broken bytes", b"RIFF oh no", ("x",)),
        AudioClip("empty", str(folder / "empty.wav"), ("x",)),
        AudioClip("gone", str(folder / "gone.wav"), ("x",)),
        AudioClip("mute", str(folder / "good0.wav"), ()),
        AudioClip("listed", "", ("x",), problem="no audio"),
        AudioClip("past", str(folder / "good0.wav"), ("x",), start=9.0),
    ]


REASONS = {
    "short": "too short: 0.050 s",
    "silent": "silent: its peak lies below -80 dB",
    "broken": "cannot be decoded",
    "broken bytes": "broken bytes cannot be decoded",
    "empty": "is empty",
    "gone": "No such file or directory",
    "mute": "no caption",
    "listed": "no audio",
    "past": "past the end",
}


def tar_source(tmp_path: Path, folder: Path, *, shards: int = 4, clips: int = 3, broken: int = 0) -> TarSource:
    paths = []
    for number in range(shards):
        paths.append(str(tmp_path / f"{number}.tar"))
        with tarfile.open(paths[-1], "w") as tar:
            for index in range(clips + broken):
                name = f"{number}-{index}"
                sound = (folder / f"good{index}.wav").read_bytes() if index < clips else b"no sound"
                for suffix, content in ((".wav", sound), (".txt", name.encode())):
                    info = tarfile.TarInfo(name + suffix)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return TarSource("shards", paths)


def same(a: dict, b: dict) -> bool:
    return torch.equal(a["waveform"], b["waveform"]) and all(a[k] == b[k] for k in a if k != "waveform")


# the window


@pytest.mark.parametrize(("seconds", "frames"), [(1.0, 100), (3.75, 376), (10.0, 1000)])
def test_window_has_the_frames_of_the_encoder(seconds, frames):
    assert num_frames(DataConfig(window_seconds=seconds).samples) == frames
    assert num_frames(DataConfig(window_seconds=seconds).samples - 1) == frames - 1


def test_item_of_a_long_clip(folder):
    item = ClipDataset(Source("clips", good(folder)), PLAIN)[3]
    assert item["waveform"].shape == (SIZE,) and item["waveform"].dtype == torch.float32
    assert item["length"] == SIZE and item["key"] == "good3" and item["tried"] == 1 and item["skipped"] == []
    assert torch.allclose(item["waveform"], noise(2.5, seed=3)[:SIZE], atol=1e-4)
    assert item["caption"] in item["captions"] == ("text 3", "also 3")


def test_short_clips_are_filled_with_zeros_or_repeated(folder):
    clip = AudioClip("part", str(folder / "good0.wav"), ("x",), start=0.5, end=0.75)
    padded = ClipDataset(Source("clips", [clip]), PLAIN)[0]
    assert padded["length"] == 4000 and not padded["waveform"][4000:].any()
    assert torch.allclose(padded["waveform"][:4000], noise(2.5)[8000:12000], atol=1e-4)
    config = DataConfig(window_seconds=1.0, random_crop=False, gain_db=0.0, repeat_pad=True)
    filled = ClipDataset(Source("clips", [clip]), config)[0]
    assert filled["length"] == SIZE
    assert torch.equal(filled["waveform"], padded["waveform"][torch.arange(SIZE) % 4000])


def test_whole_clips_where_there_is_no_window(folder):
    config = DataConfig(window_seconds=None, max_seconds=2.0, gain_db=0.0)
    parts = [
        AudioClip("long", str(folder / "good0.wav"), ("x",)),
        AudioClip("half", str(folder / "good1.wav"), ("y",), end=0.5),
    ]
    batch = collate([ClipDataset(Source("clips", parts), config)[index] for index in range(2)])
    assert batch["lengths"].tolist() == [32_000, 8_000] and batch["waveform"].shape == (2, 32_000)
    assert torch.allclose(batch["waveform"][0], noise(2.5)[:32_000], atol=1e-4)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".m4a"])
def test_random_crop_decodes_from_anywhere(suffix, tmp_path):
    ramp = torch.linspace(0.05, 0.9, 80_000) * sine(5.0, freq=1000.0) * 2  # louder and louder: tells the place
    clip = AudioClip("ramp", str(write_audio(tmp_path / f"ramp{suffix}", ramp, 16_000)), ("x",))
    config = DataConfig(window_seconds=1.0, gain_db=0.0)
    places = []
    for index in range(30):
        crop = read_clip(clip, config, seeded(index))
        assert len(crop) == config.samples
        places.append(float(crop.abs().max()))
    assert min(places) < 0.45 and max(places) > 0.75 and len(set(places)) > 20


def test_balance_shows_rare_captions_as_often_as_common_ones(folder):
    clips = [AudioClip(f"c{i}", str(folder / "good0.wav"), ("common",)) for i in range(9)]
    clips.append(AudioClip("r", str(folder / "good1.wav"), ("rare", "seldom")))
    shares = {}
    for balance in (0.0, 0.5, 1.0):
        config = DataConfig(window_seconds=0.1, balance=balance)
        items = ClipDataset(Source("clips", clips), config)
        keys = []
        for epoch in range(20):
            items.set_epoch(epoch)
            keys += [items[i]["key"] for i in range(len(items))]
        shares[balance] = keys.count("r") / len(keys)
    assert shares[0.0] == 0.1 and 0.15 < shares[0.5] < 0.36 and 0.4 < shares[1.0] < 0.6
    plain = ClipDataset(Source("clips", clips), DataConfig(window_seconds=0.1, balance=1.0), training=False)
    assert [plain[i]["key"] for i in range(10)] == [clip.key for clip in clips]


def test_crop_only_decodes_its_part(folder, monkeypatch):
    import training.data.reading

    asked = []
    load = training.data.reading.read_clips
    monkeypatch.setattr(
        training.data.reading, "read_clips", lambda file, part: asked.append(part.duration) or load(file, part)
    )
    ClipDataset(Source("clips", good(folder)), DataConfig(window_seconds=1.0))[0]
    assert asked == [SIZE / 16_000]


def test_crop_of_unknown_length_comes_from_the_whole(folder, monkeypatch):
    import training.data.reading

    monkeypatch.setattr(training.data.reading, "_length", lambda clip: None)
    crops = [read_clip(good(folder)[0], DataConfig(window_seconds=1.0), seeded(index)) for index in range(5)]
    assert all(len(crop) == SIZE for crop in crops) and not torch.equal(crops[0], crops[1])
    monkeypatch.setattr(training.data.reading, "_length", lambda clip: 1000.0)  # a header that lies
    assert len(read_clip(good(folder)[0], DataConfig(window_seconds=1.0), seeded(1))) == SIZE


def test_silent_beginning_gives_way_to_the_sound(tmp_path):
    path = write_audio(tmp_path / "late.wav", torch.cat([torch.zeros(60_000), sine(1.0)]), 16_000)
    item = ClipDataset(Source("clips", [AudioClip("late", str(path), ("x",))]), PLAIN, training=False)[0]
    assert item["length"] == SIZE and item["waveform"].abs().max() > 0.4


# random numbers


AUGMENTED = DataConfig(window_seconds=1.0, mix_probability=0.5)


def test_items_depend_on_seed_epoch_and_index_alone(folder):
    source = Source("clips", good(folder))
    items = ClipDataset(source, AUGMENTED, seed=1)
    first = [items[index] for index in range(12)]
    torch.rand(5)
    assert all(same(items[index], first[index]) for index in reversed(range(12)))
    items.set_epoch(1)
    assert not any(same(items[index], first[index]) for index in range(12))
    items.set_epoch(0)
    assert same(items[4], first[4])
    assert not same(ClipDataset(source, AUGMENTED, seed=2)[4], first[4])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_same_whatever_the_workers(folder, workers):
    items = ClipDataset(Source("clips", good(folder)), AUGMENTED, seed=1)
    batches = list(DataLoader(items, batch_size=5, num_workers=workers, collate_fn=collate))
    assert [len(batch["keys"]) for batch in batches] == [5, 5, 2]
    waveform = torch.cat([batch["waveform"] for batch in batches])
    assert torch.equal(waveform, torch.stack([items[index]["waveform"] for index in range(12)]))


def test_running_workers_notice_the_epoch(folder):
    items = ClipDataset(Source("clips", good(folder, 4)), AUGMENTED)
    loader = DataLoader(items, batch_size=4, num_workers=1, persistent_workers=True, collate_fn=collate)
    first = next(iter(loader))
    items.set_epoch(1)
    assert not torch.equal(first["waveform"], next(iter(loader))["waveform"])


def test_spawned_worker(folder):
    items = ClipDataset(Source("clips", good(folder, 2)), AUGMENTED)
    assert same(pickle.loads(pickle.dumps(items))[1], items[1])
    loader = DataLoader(items, batch_size=2, num_workers=1, collate_fn=collate, multiprocessing_context="spawn")
    assert torch.equal(next(iter(loader))["waveform"][1], items[1]["waveform"])


def test_evaluation_is_without_chance(folder):
    config = DataConfig(window_seconds=1.0, mix_probability=1.0, gain_db=20.0)
    items = ClipDataset(Source("clips", good(folder)), config, training=False)
    first = items[2]
    items.set_epoch(5)
    assert same(items[2], first)
    assert torch.allclose(first["waveform"], noise(2.5, seed=2)[:SIZE], atol=1e-4)
    assert first["caption"] == "text 2" and first["captions"] == ("text 2", "also 2")


# augmentations on and off


def epochs(source: Source, config: DataConfig, count: int = 20) -> list[dict]:
    items, made = ClipDataset(source, config), []
    for epoch in range(count):
        items.set_epoch(epoch)
        made.append(items[0])
    return made


def test_each_augmentation_is_switched_by_its_own_field(folder):
    source = Source("clips", good(folder))
    plain = epochs(source, PLAIN)
    assert all(torch.equal(item["waveform"], plain[0]["waveform"]) for item in plain)
    assert {item["caption"] for item in plain} == {"text 0", "also 0"}
    reference = plain[0]["waveform"]
    gained = epochs(source, DataConfig(window_seconds=1.0, random_crop=False, gain_db=6.0))
    ratios = torch.stack([item["waveform"].norm() / reference.norm() for item in gained])
    assert ratios.min() >= 0.501 and ratios.max() <= 1.996 and ratios.std() > 0.2
    cropped = epochs(source, DataConfig(window_seconds=1.0, gain_db=0.0))
    assert len({float(item["waveform"][0]) for item in cropped}) > 15


def test_mixing_joins_the_captions(folder):
    config = DataConfig(window_seconds=1.0, random_crop=False, gain_db=0.0, mix_probability=0.5, mix_db=5.0)
    reference = ClipDataset(Source("clips", good(folder)), PLAIN)[0]["waveform"]
    mixed = [item for item in epochs(Source("clips", good(folder)), config, 60) if " and " in item["caption"]]
    assert 15 <= len(mixed) <= 45
    for item in mixed:
        first, second = item["caption"].split(" and ")
        assert first in ("text 0", "also 0") and item["captions"] == (item["caption"],)
        assert item["key"].startswith("good0 + good") and second.split()[1] == item["key"].rsplit("good", 1)[1]
        level = 20 * ((item["waveform"] - reference).norm() / reference.norm()).log10()
        assert -5.1 <= level <= 5.1 and item["tried"] == 2


def test_no_clip_is_mixed_with_its_own_caption(folder):
    clips = [AudioClip(str(i), str(folder / f"good{i}.wav"), ("the same",)) for i in range(3)]
    made = epochs(Source("clips", clips), DataConfig(window_seconds=1.0, mix_probability=1.0))
    assert {item["caption"] for item in made} == {"the same"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"window_seconds": 0.01},
        {"min_seconds": 0.001},
        {"min_seconds": 11.0},
        {"mix_probability": 1.5},
        {"gain_db": -1.0},
        {"freq_width": 81},
        {"max_seconds": None},
        {"gain_db": "loud"},
        {"max_bad_share": float("nan")},
    ],
)
def test_config_refuses_what_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DataConfig(**wrong)


# bad clips


def test_bad_clips_of_every_kind_say_why(folder):
    items = ClipDataset(Source("clips", bad(folder)), DataConfig(window_seconds=1.0), training=False)
    for index, clip in enumerate(bad(folder)):
        item = items[index]
        ((key, reason),) = item["skipped"]
        assert key == clip.key and REASONS[key] in reason and "\n" not in reason
        assert item["length"] == 0
        crop = ClipDataset(Source("one", [clip]), DataConfig(window_seconds=1.0))[0]
        assert {REASONS[key] in reason for key, reason in crop["skipped"]} == {True} and crop["tried"] == 32


def test_bad_clips_are_replaced_in_training_and_left_out_in_evaluation(folder):
    source = Source("clips", good(folder, 6) + bad(folder))
    training = [ClipDataset(source, PLAIN)[index] for index in range(len(source))]
    batch = collate(training)
    assert len(batch["keys"]) == len(source) and all(key.startswith("good") for key in batch["keys"])
    assert {key for key, _ in batch["skipped"]} == set(REASONS)
    assert batch["tried"] == len(source) + len(batch["skipped"])
    assert same(training[8], ClipDataset(source, PLAIN)[8])
    held = collate([ClipDataset(source, PLAIN, training=False)[index] for index in range(len(source))])
    assert held["keys"] == [f"good{index}" for index in range(6)] and held["tried"] == len(source)


def test_batch_of_nothing(folder):
    items = ClipDataset(Source("clips", bad(folder)), PLAIN, training=False)
    batch = collate([items[0], items[1]])
    assert batch["waveform"].shape[0] == 0 and batch["lengths"].shape == (0,) and batch["tried"] == 2


def test_skipped_csv_lists_each_bad_clip_once(folder, tmp_path):
    source = Source("clips", good(folder) + bad(folder))
    log = SkipLog(tmp_path / "run" / "skipped.csv", max_bad_share=0.9)
    items = ClipDataset(source, PLAIN)
    for epoch in range(2):
        items.set_epoch(epoch)
        for batch in DataLoader(items, batch_size=7, num_workers=2, collate_fn=collate):
            assert set(log.update(batch)) == {"waveform", "lengths", "caption", "captions", "keys"}
    log.finish()
    with open(tmp_path / "run" / "skipped.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["key"] for row in rows) == dict.fromkeys(REASONS, 1)
    assert all(REASONS[row["key"]] in row["reason"] for row in rows)
    again = SkipLog(tmp_path / "run" / "skipped.csv", max_bad_share=0.9)
    again.update({"tried": 2, "skipped": [("short", "again"), ("new", "a, b")]})
    assert (tmp_path / "run" / "skipped.csv").read_text().splitlines()[-1] == 'new,"a, b"'
    assert len(again.reasons) == len(REASONS) + 1


def test_skip_logs_of_ranks_merge(tmp_path):
    logs = [SkipLog(tmp_path / "skipped.csv", rank=rank) for rank in range(2)]
    logs[0].update({"tried": 1, "skipped": [("a", "x")]})
    logs[1].update({"tried": 2, "skipped": [("a", "x"), ("b", "y")]})
    logs[0].merge()
    assert (tmp_path / "skipped.csv").read_text().split() == ["key,reason", "a,x", "b,y"]
    assert list(tmp_path.iterdir()) == [tmp_path / "skipped.csv"]


def test_too_many_bad_clips_stop_the_run(folder, tmp_path):
    source = Source("clips", good(folder, 9) + bad(folder))
    log = SkipLog(tmp_path / "skipped.csv", max_bad_share=0.1)
    with pytest.raises(ValueError) as caught:
        for batch in DataLoader(ClipDataset(source, PLAIN), batch_size=4, collate_fn=collate):
            log.update(batch)
    text = str(caught.value)
    assert "\n" not in text and "max_bad_share 10%" in text and "skipped.csv" in text
    assert "short: too short: 0.050 s" in text and f"{log.bad} of {log.tried} clips tried" in text
    assert log.tried >= 20


def test_a_run_goes_on_while_few_clips_are_bad(tmp_path):
    log = SkipLog(tmp_path / "skipped.csv", max_bad_share=0.05)
    log.update({"tried": 19, "skipped": [(str(i), "x") for i in range(10)]})  # too few to tell
    log = SkipLog(tmp_path / "skipped.csv", max_bad_share=0.05)
    log.update({"tried": 20, "skipped": [("a", "x"), ("b", "x")]})  # may be chance
    with pytest.raises(ValueError, match="2 of 20 clips tried"):
        log.finish()  # the share is what it is
    log.update({"tried": 30, "skipped": []})
    log.finish()
    strict = SkipLog(tmp_path / "strict.csv", max_bad_share=0.0)
    with pytest.raises(ValueError, match="1 of 20"):
        strict.update({"tried": 20, "skipped": [("a", "x")]})


# streams


def test_stream_gives_each_clip_once_over_ranks_and_workers(folder, tmp_path, monkeypatch):
    source = tar_source(tmp_path, folder, shards=5, clips=4)
    keys = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        stream = ClipStream(source, PLAIN)
        for batch in DataLoader(stream, batch_size=3, num_workers=2, collate_fn=collate):
            keys += batch["keys"]
            assert batch["caption"] == [key.split("/")[1] for key in batch["keys"]]
    assert Counter(keys) == Counter(f"{n}.tar/{n}-{i}" for n in range(5) for i in range(4))


def test_stream_order_and_items_are_reproducible(folder, tmp_path):
    source = tar_source(tmp_path, folder)
    stream = ClipStream(source, AUGMENTED, seed=3, rank=0, world_size=1)
    first = list(stream)
    assert len(first) == 12 and all(same(a, b) for a, b in zip(first, stream, strict=True))
    assert [item["key"].split(" ")[0] for item in first] != sorted(item["key"].split(" ")[0] for item in first)
    assert any(" and " in item["caption"] for item in first)
    stream.set_epoch(1)
    assert [item["key"] for item in stream] != [item["key"] for item in first]
    config = DataConfig(window_seconds=1.0)
    alone = {item["key"]: item for item in ClipStream(source, config, rank=0, world_size=1)}
    for rank in range(3):  # what happens to a clip does not depend on who reads it
        assert all(same(item, alone[item["key"]]) for item in ClipStream(source, config, rank=rank, world_size=3))


def test_stream_in_evaluation_keeps_the_order(folder, tmp_path):
    stream = ClipStream(tar_source(tmp_path, folder), AUGMENTED, training=False)
    assert [item["key"] for item in stream] == [f"{n}.tar/{n}-{i}" for n in range(4) for i in range(3)]


def test_endless_stream_begins_the_next_epoch(folder, tmp_path):
    source = tar_source(tmp_path, folder, shards=2, clips=2)
    endless = iter(ClipStream(source, DataConfig(window_seconds=1.0), endless=True))
    items = [next(endless) for _ in range(8)]
    assert Counter(item["key"] for item in items) == Counter(
        [f"{n}.tar/{n}-{i}" for n in range(2) for i in range(2)] * 2
    )
    second = ClipStream(source, DataConfig(window_seconds=1.0))
    second.set_epoch(1)
    assert all(same(a, b) for a, b in zip(items[4:], second, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_passes_over_bad_clips_and_reports_all(folder, tmp_path, workers):
    source = tar_source(tmp_path, folder, shards=4, clips=2, broken=2)
    log = SkipLog(tmp_path / "skipped.csv", max_bad_share=0.5)
    keys = []
    for batch in DataLoader(ClipStream(source, PLAIN), batch_size=3, num_workers=workers, collate_fn=collate):
        keys += log.update(batch)["keys"]
    assert sorted(keys) == [f"{n}.tar/{n}-{i}" for n in range(4) for i in range(2)]
    assert (log.tried, log.bad) == (16, 8) and len(log.reasons) == 8
    log.finish()


def test_stream_of_bad_clips_alone_stops(folder, tmp_path):
    stream = ClipStream(tar_source(tmp_path, folder, shards=2, clips=0, broken=12), PLAIN)
    log = SkipLog(tmp_path / "skipped.csv")
    batches = list(DataLoader(stream, batch_size=2, collate_fn=collate))
    with pytest.raises(ValueError, match="24 of 24 clips tried"):
        for batch in batches:
            log.update(batch)


def test_items_fit_the_source(folder, tmp_path):
    clips, shards = Source("clips", good(folder)), tar_source(tmp_path, folder, shards=1)
    assert isinstance(clip_items(clips, PLAIN, seed=1), ClipDataset)
    assert isinstance(clip_items(shards, PLAIN, training=False), ClipStream)
    with pytest.raises(ValueError, match="ClipStream"):
        ClipDataset(shards, PLAIN)
    with pytest.raises(ValueError, match="ClipDataset"):
        ClipStream(clips, PLAIN)
    with pytest.raises(ValueError, match="0 <= rank < world_size"):
        ClipStream(shards, PLAIN, rank=2, world_size=2)
