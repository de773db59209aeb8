"""Every kind of source with real files, whole and broken, and what each says before a training starts."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

from audio2img_core.audio.clips import AudioClip, clean_captions
from tests.helpers.audio import noise, sine, write_audio
from training.data.hub_datasets import seed_caption, seed_labels
from training.data.sources import distinct_captions, hold_out, open_source

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sounds")
    return {
        "dog.wav": write_audio(folder / "dog.wav", sine(1.0), 16_000),
        "cat.flac": write_audio(folder / "cat.flac", noise(1.5, 22_050), 22_050),
        "bell.mp3": write_audio(folder / "bell.mp3", sine(2.0, 44_100), 44_100),
    }


def message(call) -> str:
    """The message of the error that a call raises, which must be one line."""
    with pytest.raises((ValueError, OSError, ImportError)) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def opening(spec, **options) -> str:
    return message(lambda: open_source(spec, **options))


def pack(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


# folders


def test_folder_with_captions_beside_the_sounds(sounds, tmp_path):
    (tmp_path / "more").mkdir()
    for name, text in (("dog.wav", "a dog barks\n\n  a  dog \n"), ("cat.flac", ""), ("bell.mp3", None)):
        (tmp_path / "more" / name).write_bytes(sounds[name].read_bytes())
        if text is not None:
            (tmp_path / "more" / name).with_suffix(".txt").write_text(text)
    source = open_source(tmp_path)
    assert not source.streaming and len(source) == 3
    clips = {clip.key: clip for clip in source}
    assert clips["more/dog.wav"] == AudioClip(
        "more/dog.wav", str(tmp_path / "more" / "dog.wav"), ("a dog barks", "a dog"), 0.0, None, ""
    )
    assert clips["more/cat.flac"].captions == ()
    assert clips["more/bell.mp3"].problem == "no bell.txt beside it"


def test_folder_caption_that_is_no_text(sounds, tmp_path):
    for name in ("dog.wav", "cat.flac"):
        (tmp_path / name).write_bytes(sounds[name].read_bytes())
    (tmp_path / "dog.txt").write_text("a dog")
    (tmp_path / "cat.txt").write_bytes(b"\xff\xfe\xfa")
    assert [bool(clip.problem) for clip in open_source(tmp_path)] == [True, False]


def test_folder_of_nothing(sounds, tmp_path):
    assert "no sound in this folder" in opening(tmp_path)
    (tmp_path / "dog.wav").write_bytes(sounds["dog.wav"].read_bytes())
    assert "captions of all 1 clips are empty or missing" in opening(tmp_path)
    assert "takes no split" in opening(tmp_path, split="train")


# manifests


ROWS = [
    {"audio": "dog.wav", "caption": "a dog", "start": 0.25, "end": 0.75},
    {"audio": "dog.wav", "caption": "a bark", "start": 0.25, "end": 0.75},
    {"audio": "dog.wav", "caption": "another part", "start": 0.5, "end": None},
    {"audio": "cat.flac", "caption": '["a cat", "meow"]', "start": None, "end": None},
    {"audio": "cat.flac", "caption": "a cat", "start": None, "end": None},
    {"audio": "gone.wav", "caption": "no file", "start": None, "end": None},
    {"audio": "", "caption": "no name", "start": None, "end": None},
    {"audio": "dog.wav", "caption": "ends early", "start": 2.0, "end": 1.0},
    {"audio": "bell.mp3", "caption": "", "start": None, "end": None},
]


def write_manifest(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        import csv

        with open(path, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_manifest_rows_of_one_clip_join(suffix, tmp_path):
    manifest = write_manifest(tmp_path / f"all{suffix}", ROWS)
    source = open_source(manifest)
    clips = list(source)
    assert [(clip.captions, clip.start, clip.end) for clip in clips[:4]] == [
        (("a dog", "a bark"), 0.25, 0.75),
        (("another part",), 0.5, None),
        (("a cat", "meow"), 0.0, None),
        (("no file",), 0.0, None),
    ]
    assert clips[0].audio == str(tmp_path / "dog.wav")
    assert clips[0].key == "dog.wav@0.25-0.75" and clips[2].key == "cat.flac"
    assert [clip.problem for clip in clips[5:]] == ["no audio", "start 2.0 and end 1.0 do not fit"]
    assert clips[4].captions == () and len({clip.key for clip in clips}) == len(clips)
    assert distinct_captions(source) == ["a dog", "a bark", "another part", "a cat", "meow", "no file"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_manifest_with_lists_of_captions(suffix, tmp_path):
    rows = [{"audio": "a.wav", "captions": ["one", " two ", "one", ""]}, {"audio": "/b.wav", "captions": []}]
    clips = list(open_source(write_manifest(tmp_path / f"all{suffix}", rows)))
    assert clips[0].captions == ("one", "two") and clips[1].captions == ()
    assert clips[1].audio == "/b.wav"  # absolute paths stay


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_manifest_without_the_columns_lists_those_found(suffix, tmp_path):
    manifest = write_manifest(tmp_path / f"bad{suffix}", [{"path": "a.wav", "words": "a"}])
    text = opening(manifest)
    assert "no column audio and no column caption" in text and "found: path, words" in text


def test_manifests_that_cannot_be_read(tmp_path):
    for name, content, said in (
        ("a.csv", b"", "no column audio"),
        ("b.csv", b"audio,caption\n", "no clip found"),
        ("c.csv", b"audio,caption\n\xff\xfe,x\n", "not a CSV file"),
        ("d.jsonl", b'{"audio": "a"}\n{oops\n', "line 2 is not JSON"),
        ("e.jsonl", b"[1]\n", "line 1 must be an object"),
        ("f.parquet", b"PAR1 not really", "not a Parquet file"),
        ("g.csv", b"audio,caption\na.wav,\nb.wav,  \n", "captions of all 2 clips are empty"),
        ("h.csv", b"audio,caption,start\na.wav,x,soon\n", "captions of all 1 clips"),
    ):
        (tmp_path / name).write_bytes(content)
        assert said in opening(tmp_path / name), name
    assert "no such manifest" in opening(tmp_path / "none.csv")


# Hugging Face datasets


def dataset_of(sounds, **columns):
    files = list(sounds.values())
    rows = max(len(values) for values in columns.values())
    audio = [{"bytes": files[i % 3].read_bytes(), "path": files[i % 3].name} for i in range(rows)]
    return datasets.Dataset.from_dict({"audio": audio, **columns}).cast_column("audio", datasets.Audio(decode=False))


def test_dataset_folder_keeps_sounds_undecoded(sounds, tmp_path):
    data = dataset_of(sounds, caption=["a dog", "a cat", None]).cast_column("audio", datasets.Audio())
    data.save_to_disk(str(tmp_path / "set"))
    source = open_source(tmp_path / "set")
    assert source[0] == AudioClip("row 0 dog.wav", sounds["dog.wav"].read_bytes(), ("a dog",))
    assert [clip.captions for clip in source] == list(source.captions()) == [("a dog",), ("a cat",), ()]


def test_dataset_dict_and_its_splits(sounds, tmp_path):
    data = dataset_of(sounds, text=["a", "b"])
    datasets.DatasetDict(train=data, test=data.select([1])).save_to_disk(str(tmp_path / "set"))
    assert len(open_source(tmp_path / "set")) == 2
    assert len(open_source(tmp_path / "set", split="test")) == 1
    assert "no split 'dev'; found: train, test" in opening(tmp_path / "set", split="dev")


def test_dataset_columns(sounds, tmp_path):
    five = {f"caption_{number}": [f"text {number}"] for number in range(1, 6)}
    dataset_of(sounds, file_name=["x"], **five).save_to_disk(str(tmp_path / "clotho"))
    assert open_source(tmp_path / "clotho")[0].captions == tuple(f"text {n}" for n in range(1, 6))
    words = dataset_of(sounds, words=[["one", "two"]], sort=[1])
    words = words.cast_column("sort", datasets.ClassLabel(names=["cat", "dog"]))
    words.save_to_disk(str(tmp_path / "words"))
    assert "no column with captions" in opening(tmp_path / "words")
    assert "found: audio, words, sort" in opening(tmp_path / "words", caption_column="caption")
    assert "no column sound" in opening(tmp_path / "words", caption_column="words", audio_column="sound")
    assert open_source(tmp_path / "words", caption_column="words")[0].captions == ("one", "two")
    named = open_source(tmp_path / "words", caption_column="sort")
    assert named[0].captions == ("dog",) and list(named.captions()) == [("dog",)]


def test_the_seeds_captions_of_fsd50k(sounds, tmp_path):
    labels = "Piano,Keyboard_(musical),Musical_instrument,Music"
    joined = "Piano Keyboard musical Musical instrument Music"
    assert seed_caption(labels) == seed_caption(labels.split(",")) == (joined,)
    assert seed_labels(labels) == (joined, "Piano", "Keyboard musical", "Musical instrument", "Music")
    assert seed_labels("Fire") == ("Fire",) and seed_caption(None) == seed_labels(None) == ()
    dataset_of(sounds, labels=[labels, "Fire"], title=["x", "y"]).save_to_disk(str(tmp_path / "fsd50k"))
    assert open_source(tmp_path / "fsd50k")[0].captions == (joined,)
    assert len(open_source(tmp_path / "fsd50k", preset="fsd50k-labels")[0].captions) == 5
    assert "unknown preset 'fsd'" in opening(tmp_path / "fsd50k", preset="fsd")


def test_dataset_rows_without_sound(sounds, tmp_path):
    audio = [None, str(sounds["dog.wav"])]
    data = datasets.Dataset.from_dict({"audio": audio, "caption": ["a", "b"]})
    data.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(str(tmp_path / "set"))
    source = open_source(tmp_path / "set")
    assert source[0].problem == "no audio"
    assert source[1] == AudioClip("row 1 dog.wav", sounds["dog.wav"].read_bytes(), ("b",))


def test_dataset_folder_of_parquet_and_parquet_with_sounds(sounds, tmp_path):
    data = dataset_of(sounds, caption=["a dog", "a cat"], start=[0.5, None], end=[0.75, None])
    data.to_parquet(str(tmp_path / "set" / "train-0.parquet"))
    as_manifest = open_source(tmp_path / "set" / "train-0.parquet")
    assert (as_manifest[0].start, as_manifest[0].end) == (0.5, 0.75)
    assert as_manifest[0].audio == sounds["dog.wav"].read_bytes()
    assert open_source(tmp_path / "set")[1].captions == ("a cat",)


def test_audio_folder_with_metadata_and_splits(sounds, tmp_path):
    (tmp_path / "test").mkdir()
    for name in ("dog.wav", "cat.flac"):
        (tmp_path / "test" / name).write_bytes(sounds[name].read_bytes())
    (tmp_path / "test" / "metadata.csv").write_text("file_name,said\ndog.wav,a dog\ncat.flac,a cat\n")
    source = open_source(tmp_path, split="test", caption_column="said")
    assert [(clip.audio, clip.captions) for clip in source] == [
        (str(tmp_path / "test" / "dog.wav"), ("a dog",)),
        (str(tmp_path / "test" / "cat.flac"), ("a cat",)),
    ]
    assert "no column caption; found: file_name, said" in opening(tmp_path, split="test")
    assert "takes no split" in opening(tmp_path, split="train")


def test_dataset_that_is_none(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{")
    (tmp_path / "dataset_info.json").write_text("{")
    assert "cannot be opened as a Hugging Face dataset" in opening(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert "no-one/no-such-set" in opening("no-one/no-such-set")


@pytest.mark.parametrize(("module", "spec"), [("datasets", "fsd50k"), ("pyarrow.parquet", "x.parquet")])
def test_missing_library_names_the_extra(module, spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.parquet").write_bytes(b"")
    for name in (module, module.split(".")[0]):
        monkeypatch.setitem(sys.modules, name, None)
    assert "audio2img[train]" in opening(spec)


# tar shards


def shard_members(number: int, count: int, sound: bytes) -> dict[str, bytes]:
    members = {}
    for index in range(count):
        members[f"d/{number}-{index}.wav"] = sound
        members[f"d/{number}-{index}.txt"] = f"clip {number} {index}\nagain".encode()
    return members


@pytest.fixture
def shards(sounds, tmp_path) -> str:
    sound = sounds["dog.wav"].read_bytes()
    for number in range(5):
        pack(tmp_path / f"train-{number:03d}.tar", shard_members(number, 4, sound))
    return str(tmp_path / "train-{000..004}.tar")


def test_tar_shards_stream(shards, sounds):
    source = open_source(shards)
    assert source.streaming and len(source.shards) == 5
    clips = list(source)
    assert len(clips) == 20
    assert clips[0] == AudioClip("train-000.tar/d/0-0", sounds["dog.wav"].read_bytes(), ("clip 0 0", "again"))
    assert len(distinct_captions(source)) == 21
    with pytest.raises(TypeError, match="streamed"):
        len(source)


@pytest.mark.parametrize("readers", [1, 2, 4, 5, 7, 40])
def test_tar_readers_take_every_clip_once(shards, readers):
    parts = [[clip.key for clip in open_source(shards).read(reader=r, readers=readers)] for r in range(readers)]
    keys = [key for part in parts for key in part]
    assert len(keys) == len(set(keys)) == 20
    if readers == 7:
        assert {len(part) for part in parts} == {2, 3}


def test_tar_members_of_other_kinds(sounds, tmp_path):
    dog, cat = sounds["dog.wav"].read_bytes(), sounds["cat.flac"].read_bytes()
    captions = json.dumps({"captions": ["one", "two"], "text": "three", "id": 7}).encode()
    members = {
        "README.md": b"hello",
        "a.flac": cat,
        "a.json": captions,
        "b.wav": dog,
        "b.json": b"{oops",
        "c.txt": b"no sound",
        "d.wav": dog,
        "d.mp3": dog,
        "d.txt": b"two sounds",
        "e.pkl": b"never read",
        "._f.wav": dog,
    }
    clips = {clip.key: clip for clip in open_source(pack(tmp_path / "x.tar.gz", members, "w:gz"))}
    assert clips["x.tar.gz/a"].captions == ("one", "two", "three") and clips["x.tar.gz/a"].audio == cat
    problems = {key.split("/")[1]: clip.problem for key, clip in clips.items() if clip.problem}
    assert set(clips) == {f"x.tar.gz/{name}" for name in "abcd"}
    assert problems["c"] == "no sound beside the caption" and problems["d"] == "2 sounds of one name"
    assert problems["b"].startswith("its caption cannot be read")


@pytest.mark.parametrize("readers", [1, 3])
def test_tar_that_is_cut_goes_on_with_the_next(shards, tmp_path, readers):
    cut = tmp_path / "train-001.tar"
    cut.write_bytes(cut.read_bytes()[:-50_000])
    (tmp_path / "train-002.tar").write_bytes(b"no tar at all" * 100)
    clips = [clip for r in range(readers) for clip in open_source(shards).read(reader=r, readers=readers)]
    assert {clip.key for clip in clips if clip.problem} == {"train-001.tar", "train-002.tar"}
    good = [clip.key for clip in clips if not clip.problem]
    assert len(good) == len(set(good)) and 12 <= len(good) < 16


@pytest.mark.parametrize("readers", [1, 7])
def test_tar_with_a_damaged_header_is_reported(shards, tmp_path, readers):
    with open(tmp_path / "train-003.tar", "r+b") as file, tarfile.open(tmp_path / "train-003.tar") as tar:
        file.seek(tar.getmembers()[4].offset)
        file.write(b"x" * 512)
    clips = [clip for r in range(readers) for clip in open_source(shards).read(reader=r, readers=readers)]
    assert [clip.key for clip in clips if clip.problem] == ["train-003.tar"]
    assert len({clip.key for clip in clips}) == len(clips) and len(clips) in (18, 19)


def test_tar_patterns(shards, tmp_path):
    folder = os.path.dirname(shards)
    assert len(open_source(f"{folder}/train-{{000,003}}.tar").shards) == 2
    assert len(open_source(f"{folder}/train-00[0-2].tar").shards) == 3
    assert len(open_source(f"{folder}/{{train}}-*.tar".replace("{train}", "train")).shards) == 5
    assert "no such shard" in opening(f"{folder}/eval-{{000..004}}.tar")
    assert "no such shard" in opening(f"{folder}/eval-*.tar")
    assert "2 of 4 shards are missing, first" in opening(f"{folder}/train-{{003..006}}.tar")


def test_tar_without_clips(sounds, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar")
    assert "no clip found (the shard ends here" in opening(tmp_path / "a.tar")
    assert "no clip found" in opening(pack(tmp_path / "b.tar", {"x.md": b"x"}))
    only = pack(tmp_path / "c.tar", {"x.wav": sounds["dog.wav"].read_bytes()})
    assert "captions of the first 1 clips are empty" in opening(only)


def test_tar_memory_is_that_of_one_clip(tmp_path):
    import tracemalloc

    sound = bytes(1_000_000)
    for number in range(2):
        members = {f"{i}.{kind}": sound if kind == "wav" else b"x" for i in range(20) for kind in ("wav", "txt")}
        pack(tmp_path / f"{number}.tar", members)
    source = open_source(tmp_path / "{0..1}.tar")
    tracemalloc.start()
    with contextlib.closing(source.read()) as clips:
        assert sum(len(clip.audio) for clip in clips) == 40_000_000
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


# all kinds


def test_unknown_kinds(tmp_path):
    (tmp_path / "a.xyz").write_text("x")
    for spec in (tmp_path / "a.xyz", "words"):
        text = opening(spec)
        assert "no kind of data that is known; allowed: a folder of sounds" in text and "parquet" in text
    assert "no such file or folder; allowed" in opening(tmp_path / "nowhere")


def test_hold_out_splits_without_overlap(tmp_path):
    rows = [{"audio": f"{i}.wav", "caption": f"text {i}"} for i in range(20)]
    source = open_source(write_manifest(tmp_path / "m.csv", rows))
    rest, held = hold_out(source, 0.1, seed=1)
    assert len(rest) == 18 and len(held) == 2
    assert {clip.key for clip in rest} | {clip.key for clip in held} == {clip.key for clip in source}
    assert list(held.captions()) == [clip.captions for clip in held]
    assert [clip.key for clip in hold_out(source, 0.1, seed=1)[1]] == [clip.key for clip in held]
    assert "0 < share < 1" in message(lambda: hold_out(source, 1.5))


def test_clean_captions():
    assert clean_captions(" a\n b ") == ("a b",)
    assert clean_captions("[laughter]") == ("[laughter]",)
    assert clean_captions(["a", None, 3, "a ", ""]) == ("a",)
    assert clean_captions(None) == clean_captions(float("nan")) == clean_captions("  ") == ()
