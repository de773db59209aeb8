"""Embeddings in shards: the numbers of the one file, resumed after a stop, from tar shards and manifests too."""

import csv
import io
import json
import os
import tarfile

import pytest
import torch
from safetensors.torch import load_file

from audio2img_core.audio.clips import list_clips
from audio2img_core.batch import jobs
from audio2img_core.batch.embed import EncodeJob, load_encoder, settings_of
from audio2img_core.batch.engines import run_local
from audio2img_core.batch.jobs import Folder, Task
from audio2img_core.cli import main
from tests.helpers.audio import noise, write_audio


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Seven sounds, one longer than mini's window, and a file that is none."""
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "some").mkdir()
    for i in range(7):
        write_audio(folder / "some" / f"{i}.wav", noise(6.0 if i == 3 else 0.5, seed=i), 16_000)
    (folder / "some" / "broken.wav").write_bytes(b"no sound")
    return folder / "some"


def encode(*arguments):
    return main(["encode", *map(str, arguments)])


def tensors_of(folder):
    """All tensors of a folder's shards; none may be in two."""
    found = {}
    for part in sorted(folder.glob("*.safetensors")):
        loaded = load_file(part)
        assert not found.keys() & loaded.keys()
        found |= loaded
    return found


def index_of(folder):
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def skipped_of(folder):
    with open(folder / "skipped.csv", newline="") as file:
        return {row["key"]: row["reason"] for row in csv.DictReader(file)}


def write_shard(path, files):
    """A tar file of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("average", [[], ["--average"]])
def test_shards_hold_what_the_one_file_holds(sounds, tmp_path, average, capsys):
    assert encode(sounds, "-o", tmp_path / "one.safetensors", *average) == 2
    assert encode(sounds, "-o", tmp_path / "shards", "--shard-size", "3", *average) == 2
    errors = capsys.readouterr().err
    assert errors.count("broken.wav") == 2 and "Traceback" not in errors
    one, many = load_file(tmp_path / "one.safetensors"), tensors_of(tmp_path / "shards")
    assert one.keys() == many.keys() and len(one) == 7
    for name, tensor in one.items():
        torch.testing.assert_close(many[name], tensor, rtol=0, atol=1e-6)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) == 3
    index = index_of(tmp_path / "shards")
    assert [line["sound"] for line in index] == [f"{sounds.as_posix()}/{i}.wav" for i in range(7)]
    assert index[3]["starts"] == ([0.0] if average else [0.0, 4.0])
    for line in index:
        assert f"{line['sound']}/tokens" in load_file(tmp_path / "shards" / line["shard"])
    assert list(skipped_of(tmp_path / "shards")) == [f"{sounds.as_posix()}/broken.wav"]


def test_what_is_there_is_left_out(sounds, tmp_path, capsys):
    out = tmp_path / "shards"
    files = sorted(sounds.glob("?.wav"))
    assert encode(*files[:4], "-o", out, "--shard-size", "2") == 0
    before = {part.name: part.stat().st_mtime_ns for part in out.glob("*.safetensors")}
    (out / "index.jsonl").unlink()
    assert encode(*files, "-o", out, "--shard-size", "2") == 0
    assert "4 of 7 sounds are encoded already" in capsys.readouterr().err
    after = {part.name: part.stat().st_mtime_ns for part in out.glob("*.safetensors")}
    assert len(after) == 4 and after.items() >= before.items()
    assert len(tensors_of(out)) == len(index_of(out)) == 7


def test_a_bad_sound_is_tried_again_and_then_off_the_list(tmp_path):
    write_audio(tmp_path / "good.wav", noise(0.5), 16_000)
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"not yet")
    assert encode(tmp_path, "-o", tmp_path / "out") == 2
    assert list(skipped_of(tmp_path / "out")) == [bad.as_posix()]
    write_audio(bad, noise(0.5, seed=1), 16_000)
    assert encode(bad, tmp_path / "good.wav", "-o", tmp_path / "out") == 0
    assert len(index_of(tmp_path / "out")) == 2 and skipped_of(tmp_path / "out") == {}


def test_a_run_that_dies_between_shards_is_resumed(sounds, tmp_path):
    encoder = load_encoder("mini")
    settings = settings_of(encoder, start=0.0, duration=None, average=False)
    job = EncodeJob(str(tmp_path / "out"), "mini", settings, size=2)
    wanted, _ = list_clips([str(sounds)])
    tasks, _ = Folder(job).tasks(wanted, [])
    assert [len(task.items) for task in tasks] == [2, 2, 2, 2]
    reports = run_local(job, tasks)
    next(reports), next(reports)
    reports.close()
    left, done = Folder(job).tasks(wanted, [])
    assert 3 <= done <= 5 and sum(len(task.items) for task in left) == 8 - done
    list(run_local(job, left))
    assert len(Folder(job).done()) == 7


def test_the_same_shard_twice_is_the_same_file(sounds, tmp_path):
    encoder = load_encoder("mini")
    job = EncodeJob(str(tmp_path), "mini", settings_of(encoder, start=0.0, duration=None, average=False), size=8)
    wanted, _ = list_clips([str(sounds)])
    write = job.worker()
    contents = []
    for _ in range(2):
        (part,) = job.shards(Task(items=tuple(wanted)))
        assert write(part).done == 7
        (file,) = tmp_path.glob("*.safetensors")
        contents.append(file.read_bytes())
    assert contents[0] == contents[1]


@pytest.fixture
def shards(sounds, tmp_path):
    """Two tar shards: of five samples, one without a sound, and of three, whose end is cut off."""

    def content(i):
        return (sounds / f"{i}.wav").read_bytes()

    first = [(f"a/{i}.wav", content(i)) for i in range(4)] + [("a/4.txt", b"only words")]
    write_shard(tmp_path / "in" / "x-000.tar", first)
    second = write_shard(tmp_path / "in" / "x-001.tar", [(f"{i}.wav", content(i)) for i in (4, 5, 6)])
    second.write_bytes(second.read_bytes()[:40_000])
    return tmp_path / "in"


@pytest.mark.parametrize("given", ["x-{000..001}.tar", "x-*.tar", ""])
def test_tar_shards(sounds, shards, tmp_path, given):
    out = tmp_path / "out"
    assert encode(shards / given if given else shards, "-o", out, "--shard-size", "2") == 2
    wanted = {f"{shards.as_posix()}/x-000.tar/a/{i}": i for i in range(4)}
    wanted |= {f"{shards.as_posix()}/x-001.tar/{i}": i for i in (4, 5)}
    assert [line["sound"] for line in index_of(out)] == sorted(wanted)
    found = tensors_of(out)
    encoder = load_encoder("mini")
    for key, i in wanted.items():
        from audio2img_core import load_audio

        alone = encoder.encode(*load_audio(sounds / f"{i}.wav")).tokens
        torch.testing.assert_close(found[f"{key}/tokens"], alone, rtol=0, atol=1e-6)
    skipped = skipped_of(out)
    assert (
        skipped[f"{shards.as_posix()}/x-000.tar/a/4"]
        == f"{shards.as_posix()}/x-000.tar/a/4: no sound beside the caption"
    )
    assert "the shard ends here" in skipped[f"{shards.as_posix()}/x-001.tar"]


def test_the_missing_shards_of_a_tar_file_are_made(shards, tmp_path):
    out = tmp_path / "out"
    encode(shards / "x-000.tar", "-o", out, "--shard-size", "2")
    files = sorted(out.glob("*.safetensors"))
    assert [file.stem[-5:] for file in files] == ["00000", "00001", "00002"]
    contents = {file: file.read_bytes() for file in files}
    for missing in ([files[1]], [files[2]], files[:2], files):
        for file in missing:
            file.unlink()
        encode(shards / "x-000.tar", "-o", out, "--shard-size", "2")
        assert {file: file.read_bytes() for file in out.glob("*.safetensors")} == contents


def test_a_shard_that_is_done_is_not_read_again(shards, tmp_path, monkeypatch):
    out = tmp_path / "out"
    encode(shards / "x-000.tar", "-o", out)
    monkeypatch.setattr(jobs, "read_shard", lambda *_: pytest.fail("read"))
    encode(shards / "x-000.tar", "-o", out)


def test_a_manifest_names_parts_of_sounds(sounds, tmp_path):
    rows = [{"file_name": "3.wav", "start": 1, "end": 2.5}, {"file_name": "3.wav"}, {"file_name": ""}]
    table = sounds.parent / "list.jsonl"
    table.write_text(
        "".join(
            json.dumps({**row, "file_name": row["file_name"] and f"some/{row['file_name']}"}) + "\n" for row in rows
        )
    )
    assert encode(table, "-o", tmp_path / "out") == 2
    index = index_of(tmp_path / "out")
    path = (sounds / "3.wav").as_posix()
    assert [line["sound"] for line in index] == [path, f"{path}@1.0-2.5"]
    assert index[1]["durations"] == pytest.approx([1.48], abs=0.02)
    assert skipped_of(tmp_path / "out") == {"list.jsonl:3": "list.jsonl:3: no audio"}


def test_long_sounds_are_decoded_while_they_are_encoded(sounds, tmp_path, monkeypatch):
    assert encode(sounds / "3.wav", sounds / "1.wav", "-o", tmp_path / "whole") == 0
    monkeypatch.setattr("audio2img_core.batch.embed._MOST_SAMPLES", 20_000)
    assert encode(sounds / "3.wav", sounds / "1.wav", "-o", tmp_path / "stream") == 0
    whole, stream = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "stream")
    assert whole.keys() == stream.keys() and len(whole) == 2
    assert all(torch.equal(whole[name], stream[name]) for name in whole)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "x.npz"], "x.npz: embeddings go to one local .safetensors file or in shards"),
        (["-o", "x.safetensors", "--engine", "ray"], "or in shards, as by the engine ray, to a folder or a URL"),
        (["-o", "memory://x/y.safetensors"], "to a folder or a URL"),
        (["-o", "out", "--shard-size", "0"], "shard-size must be at least 1, not 0"),
        (["-o", "nowhere://out"], "nowhere://out: unknown kind of address nowhere://; known are s3://"),
        (["nosuch.jsonl", "-o", "out"], "nosuch.jsonl: no such file"),
        (["nosuch-{0..3}.tar", "-o", "out"], "nosuch-{0..3}.tar: no such shard"),
        (["memory://nosuch.wav", "-o", "out"], "memory://nosuch.wav: no such file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(sounds, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert encode(sounds, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not list(tmp_path.iterdir())


def test_shards_of_other_settings_and_strange_files_are_refused(sounds, tmp_path, capsys):
    out = tmp_path / "out"
    assert encode(sounds / "1.wav", "-o", out) == 0
    assert encode(sounds / "1.wav", "-o", out, "--duration", "0.2") == 2
    assert "was made with another duration" in capsys.readouterr().err
    (out / "x.safetensors").write_bytes(b"hello")
    assert encode(sounds / "1.wav", "-o", out) == 2
    assert "x.safetensors: is no shard of audio2img embeddings" in capsys.readouterr().err


def test_a_tables_sounds_and_a_folder_are_listed_once(sounds):
    listed, shards = list_clips([str(sounds), str(sounds / "1.wav"), str(sounds)])
    assert len(listed) == 8 and not shards


def test_another_shard_size_resumes_a_tar_file_as_it_was_begun(sounds, tmp_path):
    shard = write_shard(tmp_path / "y.tar", [(f"{i}.wav", (sounds / f"{i}.wav").read_bytes()) for i in range(7)])
    out = tmp_path / "out"
    encode(shard, "-o", out, "--shard-size", "2")
    for number in (2, 3):
        next(out.glob(f"*-0000{number}.safetensors")).unlink()
    assert encode(shard, "-o", out, "--shard-size", "5") == 0
    assert len(tensors_of(out)) == 7 == len(index_of(out))


def test_a_shard_that_cannot_be_read_now_is_read_the_next_time(shards, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise TimeoutError("the store does not answer")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "read_shard", fail)
        assert encode(shards / "x-000.tar", "-o", out) == 2
    assert "the store does not answer" in capsys.readouterr().err
    encode(shards / "x-000.tar", "-o", out)
    assert len(index_of(out)) == 4


@pytest.mark.parametrize("size", [2**41, 2**70])
def test_a_shard_whose_headers_lie_ends_there(sounds, tmp_path, size):
    shard = write_shard(tmp_path / "z.tar", [("0.wav", (sounds / "0.wav").read_bytes()), ("1.wav", b"x" * 600)])
    content = bytearray(shard.read_bytes())
    header = content.rindex(b"1.wav")
    content[header + 124 : header + 136] = b"\x80" + size.to_bytes(11, "big")
    content[header + 148 : header + 156] = b" " * 8
    content[header + 148 : header + 156] = b"%06o\0 " % sum(content[header : header + 512])
    shard.write_bytes(content)
    assert encode(shard, sounds / "2.wav", "-o", tmp_path / "out") == 2
    assert len(index_of(tmp_path / "out")) == 2
    assert "the shard ends here" in skipped_of(tmp_path / "out")[str(shard)]


def test_a_name_that_is_no_text_is_one_bad_sound(sounds, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.wav").write_bytes((sounds / "0.wav").read_bytes())
    with open(os.fsencode(folder) + b"/caf\xe9.wav", "wb") as file:
        file.write((sounds / "1.wav").read_bytes())
    assert encode(folder, "-o", tmp_path / "out") == 2
    assert len(index_of(tmp_path / "out")) == 1 and "not UTF-8" in str(skipped_of(tmp_path / "out"))


def test_one_shard_by_two_names_is_encoded_once(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(shards)
    assert list_clips(["x-000.tar", "./x-000.tar", str(shards / "x-000.tar")])[1] == [str(shards / "x-000.tar")]


def test_one_file_takes_manifests_and_no_tar_shards(sounds, shards, tmp_path, capsys):
    table = tmp_path / "list.csv"
    table.write_text(f"audio,start,end\n{sounds}/3.wav,1,2.5\n{sounds}/1.wav,,\n")
    output = tmp_path / "one.safetensors"
    assert encode(table, "-o", output) == 0
    path = sounds.as_posix()
    assert load_file(output).keys() == {f"{path}/3.wav@1.0-2.5/tokens", f"{path}/1.wav/tokens"}
    assert encode(shards, "-o", output) == 2
    assert "x-000.tar: tar shards are encoded into shards: -o FOLDER" in capsys.readouterr().err


def test_one_file_is_joined_from_the_shards_of_a_stopped_run(sounds, tmp_path, monkeypatch, capsys):
    output = tmp_path / "one.safetensors"
    files = sorted(sounds.glob("?.wav"))
    assert encode(files[0], "-o", output) == 0
    before = output.read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr("audio2img_core.batch.embed.export", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert encode(*files, "-o", output, "--shard-size", "2") == 130
    assert output.read_bytes() == before
    assert len(list((tmp_path / "one.safetensors.partial").glob("*.safetensors"))) == 3
    capsys.readouterr()
    assert encode(*files, "-o", output) == 0
    assert "7 of 7 sounds are encoded already" in capsys.readouterr().err
    assert len(load_file(output)) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors"]
    stamp = output.stat().st_mtime_ns
    assert encode(*files, "-o", output) == 0
    assert output.stat().st_mtime_ns == stamp  # nothing to add, nothing written
