"""The command line, run as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
import wave

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from audio2img_core import GenerationSettings
from audio2img_core.cli import main
from audio2img_core.generation.png import picture_metadata, read_settings, write_picture
from tests.helpers.audio import noise, sine, write_audio

pytestmark = pytest.mark.usefixtures("models_loaded_once")


@pytest.fixture
def run(capfd):
    """Arguments -> (exit code, stdout, stderr) of a run in this process."""

    def call(*arguments):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def models(tiny_folders):
    """Arguments that name the tiny models of a target."""

    def name(target):
        folder = tiny_folders(target)
        return "--encoder", folder / "encoder", "--diffusion", folder / "diffusion"

    return name


@pytest.mark.parametrize("target", ["sd15", "sd21", "sdxl"])
def test_init_then_generate(run, examples, tmp_path, target):
    assert run("init", tmp_path / "m", "--target", target, "--size", "tiny")[0] == 0
    options = ["--encoder", tmp_path / "m/encoder", "--diffusion", tmp_path / "m/diffusion", "--steps", 2, "--seed", 1]
    for name in ("piano", "bird"):
        code, out, err = run("generate", examples / f"{name}.flac", "-o", tmp_path / f"{name}.png", *options)
        assert (code, err) == (0, ""), err
        assert Image.open(tmp_path / f"{name}.png").size == (128, 128)
    pictures = [np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("piano", "bird")]
    assert not np.array_equal(*pictures)


def test_a_picture_carries_its_settings(run, examples, tmp_path, models):
    path = tmp_path / "out.png"
    assert run("generate", examples / "drum.flac", "-o", path, *models("sd15"), "--steps", 2, "--seed", 9,
               "--prompt", "a bird ☃", "--prompt-weight", 0.3, "--duration", 0.4)[0] == 0  # fmt: skip
    code, out, _ = run("info", path, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["sound"] == "drum.flac" and facts["seed"] == 9 and facts["prompt"] == "a bird ☃"
    assert facts["steps"] == 2 and facts["duration"] == 0.4 and facts["prompt_weight"] == 0.3
    assert facts["encoder"] == "encoder" and not {"denoise", "control_scale", "device", "dtype"} & set(facts)
    assert "a bird ☃" in run("info", path)[1]


def test_no_folder_of_the_users_machine_goes_into_a_picture(run, examples, tmp_path, tiny_folders):
    Image.radial_gradient("L").save(tmp_path / "in.jpg")
    folder, secret = tiny_folders("sd15"), tmp_path / "home" / "somebody"
    shutil.copytree(folder, secret)
    shutil.copy(examples / "drum.flac", secret / "drum.flac")
    command = ["generate", secret / "drum.flac", "-o", secret / "out.png", "--encoder", secret / "encoder"]
    command += ["--diffusion", secret / "diffusion" / "..", "--diffusion", f"{secret}/diffusion/", "--dtype", "float32"]
    command += ["--controlnet", secret / "controlnet", "--control-image", tmp_path / "in.jpg", "--device", "cpu"]
    code, _, err = run(*command, "--init-image", tmp_path / "in.jpg", "--steps", 2, "--seed", 1)
    assert code == 0, err
    facts = json.loads(run("info", secret / "out.png", "--json")[1])
    assert str(tmp_path) not in json.dumps(facts) and "somebody" not in (secret / "out.png").read_bytes().decode(
        "latin"
    )
    assert facts.pop("audio2img").startswith("0.") and facts == {
        "sound": "drum.flac",
        "seed": 1,
        "start": 0.0,
        "sound_strength": 1.0,
        "windows": "average",
        "steps": 2,
        "guidance": 7.5,
        "denoise": 0.8,
        "control_scale": 1.0,
        "encoder": "encoder",
        "diffusion": "diffusion",
        "controlnet": "controlnet",
        "init_image": "in.jpg",
        "control_image": "in.jpg",
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("mini", "mini"),
        ("youzarsif/wav2vec2bert_2_diffusion", "youzarsif/wav2vec2bert_2_diffusion"),
        ("/home/me/x.safetensors", "x.safetensors"),
        ("~/models/x", "x"),
        ("./x.safetensors", "x.safetensors"),
        ("../me/models/x/", "x"),
        ("C:\\Users\\me\\x.safetensors", "x.safetensors"),
        ("a/b/c", "c"),
    ],
)
def test_a_model_is_told_by_its_name(given, told):
    facts = picture_metadata(GenerationSettings(), sound="a.wav", seed=1, names={"encoder": given, "controlnet": None})
    assert facts["encoder"] == told and "controlnet" not in facts


def test_what_older_versions_wrote_is_still_told(run, tmp_path):
    write_picture(Image.new("RGB", (8, 8)), tmp_path / "old.png", {"seed": 3, "strength": 0.8, "encoder": "/home/me/x"})
    assert json.loads(run("info", tmp_path / "old.png", "--json")[1]) == read_settings(tmp_path / "old.png")
    assert "/home/me/x" in run("info", tmp_path / "old.png")[1]


def test_a_seed_draws_the_same_picture_again_and_options_matter(run, examples, tmp_path, models):
    base = ["generate", examples / "drum.flac", *models("sd15"), "--steps", 2, "--seed", 4]

    def pixels(name, *options):
        assert run(*base, "-o", tmp_path / name, *options)[0] == 0
        return np.asarray(Image.open(tmp_path / name))

    plain = pixels("a.png")
    assert np.array_equal(plain, pixels("b.png"))
    for i, options in enumerate(
        [
            ("--prompt", "dog"),
            ("--negative", "dog"),
            ("--guidance", 1),
            ("--steps", 3),
            ("--seed", 5),
            ("--start", 0.2),
            ("--duration", 0.1),
            ("--sound-strength", 0.2),
            ("--dtype", "bfloat16"),
        ]
    ):
        assert not np.array_equal(plain, pixels(f"{i}.png", *options)), options


def test_sizes_init_images_and_controlnets(run, examples, tmp_path, models, tiny_folders):
    Image.radial_gradient("L").save(tmp_path / "in.jpg")
    base = ["generate", examples / "drum.flac", *models("sd15"), "--steps", 4, "--seed", 4, "--size", "64x32"]
    net = ["--controlnet", tiny_folders("sd15") / "controlnet", "--control-image", tmp_path / "in.jpg"]
    seen = []
    for i, options in enumerate(
        [[], ["--init-image", tmp_path / "in.jpg", "--strength", 0.5], net, [*net, "--init-image", tmp_path / "in.jpg"]]
    ):
        code, _, err = run(*base, "-o", tmp_path / f"{i}.png", *options)
        assert code == 0, err
        image = Image.open(tmp_path / f"{i}.png")
        assert image.size == (64, 32)
        seen.append(image.tobytes())
    assert len(set(seen)) == 4


def test_a_folder_in_pictures_out(run, examples, tmp_path, models):
    sounds = tmp_path / "sounds"
    (sounds / "more").mkdir(parents=True)
    write_audio(sounds / "a.wav", noise(0.3), 16000)
    write_audio(sounds / "more" / "a.wav", sine(0.3), 16000)
    write_audio(sounds / "b.mp4", sine(0.5, rate=44100), 44100, video=True)
    (sounds / "notes.txt").write_text("no sound")
    out = tmp_path / "pictures"
    code, stdout, _ = run("generate", sounds, "-o", out, *models("sd15"), "--steps", 1, "--seed", 7, "--count", 2)
    names = sorted(p.name for p in out.iterdir())
    assert code == 0
    assert names == ["a-7-2.png", "a-7.png", "a-8-2.png", "a-8.png", "b-7.png", "b-8.png"]
    assert len(stdout.splitlines()) == 6
    code, stdout, _ = run(
        "generate", sounds / "a.wav", "-o", tmp_path / "x.png", *models("sd15"), "--steps", 1, "--seed", 7, "--count", 2
    )
    assert code == 0 and sorted(p.name for p in tmp_path.glob("x*")) == ["x-7.png", "x-8.png"]


def test_kept_windows_give_a_picture_each(run, tmp_path, models):
    write_audio(tmp_path / "long.wav", noise(15.0), 16000)
    code, out, err = run("generate", tmp_path / "long.wav", "-o", tmp_path / "o", *models("sd15"), "--steps", 1,
                         "--seed", 0, "--windows", "keep")  # fmt: skip
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["long-w1.png", "long-w2.png"]


def test_one_bad_sound_among_good_ones(run, tmp_path, models):
    write_audio(tmp_path / "a.wav", noise(0.3), 16000)
    (tmp_path / "b.wav").write_text("this is text")
    write_audio(tmp_path / "c.wav", noise(0.3), 16000)
    code, _, err = run("generate", tmp_path, "-o", tmp_path / "o", *models("sd15"), "--steps", 1, "--seed", 0)
    assert code == 2 and len(err.splitlines()) == 1 and "b.wav" in err
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["a.png", "c.png"]


def bad_files(folder):
    """Name -> words that the error must hold."""
    (folder / "folder.wav").mkdir()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("hello, this is text\n" * 50)
    Image.new("RGB", (64, 64)).save(folder / "picture.png")
    samples = torch.full((1600,), 0.1)
    samples[7] = float("nan")
    write_audio(folder / "nan.wav", samples, 16000, codec="pcm_f32le")
    write_audio(folder / "short.wav", noise(0.5), 16000)
    with wave.open(str(folder / "none.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
    return {
        "missing.wav": "no such file",
        "folder.wav": "no sound in this folder",
        "empty.wav": "empty",
        "text.wav": "cannot be decoded",
        "picture.png": "no audio",
        "nan.wav": "NaN",
        "none.wav": "holds no sound",
    }


@pytest.mark.parametrize(
    "name", ["missing.wav", "folder.wav", "empty.wav", "text.wav", "picture.png", "nan.wav", "none.wav"]
)
def test_bad_files_get_one_line_and_leave_nothing(run, tmp_path, name):
    words = bad_files(tmp_path)[name]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("generate", tmp_path / name, "-o", tmp_path / "out.png", "--steps", 1)
    errors = err.splitlines()
    assert code == 2 and out == ""
    assert len(errors) == 1 and errors[0].startswith("audio2img: error: ")
    assert name in errors[0] and words in errors[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--start", "-1"], "--start must be at least 0, not -1.0"),
        (["--duration", "0"], "--duration must be above 0, not 0.0"),
        (["--encoder", "nowhere.safetensors"], "nowhere.safetensors: no such encoder"),
        (["--diffusion", "/nowhere"], "/nowhere: no such diffusion model"),
        (["--diffusion", "a/b", "--controlnet", "/no", "--control-image", "in.png"], "/no: no such ControlNet"),
        (["--device", "cuda:99"], "no device 'cuda:99' on this machine"),
        (["--dtype", "float16", "--device", "cpu"], "float16 is for GPUs"),
        (["--steps", "0"], "--steps must be between 1 and 1000, not 0"),
        (["--guidance", "-1"], "--guidance must be at least 0, not -1.0"),
        (["--size", "100x64"], "--size must be multiples of 8 pixels, not 100x64"),
        (["--size", "0x0"], "--size must be a width and a height in pixels"),
        (["--size", "big"], "'big' is no size: write WIDTHxHEIGHT"),
        (["--init-image", "nothing.png"], "nothing.png: no such picture"),
        (["--init-image", "short.wav"], "short.wav: not a picture"),
        (["--init-image", "in.png", "--denoise", "2"], "--denoise must be above 0 and at most 1, not 2.0"),
        (["--init-image", "in.png", "--strength", "2"], "--strength must be above 0 and at most 1, not 2.0"),
        (["--init-image", "in.png", "--denoise", "0.01"], "--denoise leaves no step of 12 to take"),
        (["--count", "0"], "--count must be at least 1, not 0"),
        (["--seed", "99999999999999999999"], "--seed must be between 0 and"),
        (["--seed", "-1"], "--seed must be between 0 and"),
        (["--encoder", "nowhere.safetensors", "-o", "new/out.png"], "nowhere.safetensors: no such encoder"),
        (["--sound-strength", "nan"], "--sound-strength must be at least 0, not nan"),
        (["--windows", "first"], "argument --windows: invalid choice: 'first'"),
        (["--prompt", "x", "--prompt-weight", "3"], "--prompt-weight must be between 0 and 1, not 3.0"),
        (["--control-image", "in.png"], "--control-image needs a ControlNet"),
        (["--control-scale", "nan"], "--control-scale must be at least 0, not nan"),
        (["--diffusion", "a/b", "--controlnet", "c/d"], "--controlnet needs a control image"),
        (["--controlnet", "c/d", "--control-image", "in.png"], "the mini model has no ControlNet"),
        (["-o", "out.gif"], "out.gif: pictures are written as .png"),
    ],
)
def test_a_bad_option_costs_no_model_and_leaves_nothing(run, tmp_path, monkeypatch, no_models, options, words):
    monkeypatch.chdir(tmp_path)
    bad_files(tmp_path)
    Image.new("RGB", (64, 64)).save("in.png")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("generate", "short.wav", "-o", "out.png", *options)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert err.startswith(f"audio2img: error: {words}") or "--size: 'big'" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_target_that_does_not_fit(run, examples, tmp_path, models):
    encoder, diffusion = models("sd15")[1], models("sdxl")[3]
    code, _, err = run(
        "generate", examples / "drum.flac", "-o", tmp_path / "o.png", "--encoder", encoder, "--diffusion", diffusion
    )
    assert code == 2 and "'sd15'" in err and "'sdxl'" in err and not (tmp_path / "o.png").exists()


def test_an_output_folder_that_cannot_be_written(run, examples, tmp_path):
    (tmp_path / "file").write_text("a file, no folder")
    for output in (tmp_path / "file" / "out.png", tmp_path / "file" / "folder", "/proc/nowhere/out.png"):
        code, _, err = run("generate", examples / "drum.flac", "-o", output)
        assert code == 2 and len(err.splitlines()) == 1 and "cannot be written" in err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_pictures_are_not_overwritten_unless_named(run, tmp_path, models):
    sounds = tmp_path / "s"
    sounds.mkdir()
    for i, name in enumerate(("rain.wav", "rain.flac", "rain-2.wav")):
        write_audio(sounds / name, noise(0.3, seed=i), 16000)
    options = [*models("sd15"), "--steps", 1, "--seed", 0]
    code, out, _ = run("generate", sounds, "-o", tmp_path / "o", *options)
    assert code == 0 and len(set(out.split())) == 3 == len(list((tmp_path / "o").iterdir()))
    run("generate", sounds / "rain.wav", "-o", tmp_path / "o", *options)
    assert len(list((tmp_path / "o").iterdir())) == 4
    for _ in range(2):
        assert run("generate", sounds / "rain.wav", "-o", tmp_path / "x.png", *options)[0] == 0
    assert len(list(tmp_path.glob("x*.png"))) == 1
    (tmp_path / "dir.png").mkdir()
    assert run("generate", sounds / "rain.wav", "-o", tmp_path / "dir.png", *options)[0] == 0
    assert [p.name for p in (tmp_path / "dir.png").iterdir()] == ["rain.png"]


@pytest.mark.parametrize("damage", ["text encoder", "missing text", "missing unet", "config", "encoder config"])
def test_broken_models_get_one_line(run, examples, tmp_path, tiny_folders, damage):
    folder = shutil.copytree(tiny_folders("sd15"), tmp_path / "m")
    text = folder / "diffusion" / "text_encoder" / "model.safetensors"
    unet = folder / "diffusion" / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "text encoder":
        text.write_bytes(text.read_bytes()[:5000])
    elif damage in ("missing text", "missing unet"):
        file = text if damage == "missing text" else unet
        tensors = load_file(file)
        del tensors[next(name for name in tensors if "attn" in name)]
        save_file(tensors, file, metadata={"format": "pt"})
    elif damage == "config":
        (folder / "diffusion" / "unet" / "config.json").write_text("[]")
    else:
        (folder / "encoder" / "config.json").write_text("[]")
    code, out, err = run(
        "generate", examples / "drum.flac", "-o", tmp_path / "o.png", "--steps", 1, "--prompt", "dog",
        "--encoder", folder / "encoder", "--diffusion", folder / "diffusion",
    )  # fmt: skip
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and str(folder) in err, err
    assert not (tmp_path / "o.png").exists()


def test_info_on_damaged_files(run, tmp_path, tiny_folders):
    from PIL.PngImagePlugin import PngInfo

    for text in ("5", "[]", "{}", "{"):
        chunks = PngInfo()
        chunks.add_itxt("audio2img", text)
        Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=chunks)
        code, _, err = run("info", tmp_path / "x.png")
        assert code == 2 and "damaged" in err
    folder = shutil.copytree(tiny_folders("sd15") / "encoder", tmp_path / "e")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, _, err = run("info", folder)
    assert code == 2 and "not a whole safetensors file" in err and len(err.splitlines()) == 1


def test_an_unforeseen_fault_is_one_line_too(run, examples, monkeypatch, tmp_path):
    from audio2img_core.generation import pipeline

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(pipeline.AudioToImagePipeline, "__call__", fail)
    code, _, err = run("generate", examples / "drum.flac", "-o", tmp_path / "o.png")
    assert code == 1 and "audio2img: failed: MemoryError (--debug shows where)" in err


def test_a_fault_in_the_middle_of_a_report_is_reported(run, examples, monkeypatch):
    """torch raises the death of a data worker wherever the program stands, while its consequences are reported too."""

    class Interrupted(OSError):
        def __str__(self) -> str:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    def fail(arguments):
        raise Interrupted

    monkeypatch.setattr("audio2img_core.cli.info.run", fail)
    code, _, err = run("info", "mini")
    assert code == 1 and "failed: DataLoader worker (pid 7) is killed" in err and "Traceback" not in err


def test_silence_and_a_truncated_file_work_with_a_warning(run, tmp_path, models):
    write_audio(tmp_path / "silence.wav", torch.zeros(8000), 16000)
    write_audio(tmp_path / "cut.flac", noise(3.0), 16000)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 3])
    for name, words in (("silence.wav", ["silen", "silence.wav"]), ("cut.flac", ["cut.flac", "3.0"])):
        code, _, err = run("generate", tmp_path / name, "-o", tmp_path / "o.png", *models("sd15"), "--steps", 1)
        assert code == 0 and len(err.splitlines()) == 1, err
        assert all(word in err for word in words), err


def test_a_traceback_only_with_debug(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["generate", str(tmp_path / "none.wav"), "--debug"])


def test_encode(run, examples, tmp_path, models):
    output = tmp_path / "e.safetensors"
    arguments = ["encode", examples, "-o", output, *models("sdxl")[:2]]
    assert run(*arguments)[0] == 0
    tensors = load_file(output)
    name = (examples / "drum.flac").as_posix()
    assert len(tensors) == 10
    assert tensors[f"{name}/tokens"].shape == (1, 76, 2048) and tensors[f"{name}/pooled"].shape == (1, 1280)
    with safe_open(output, "pt") as opened:
        index = json.loads(opened.metadata()["audio2img_embeddings"])
    assert index["settings"]["target"] == "sdxl" and index["sounds"][name]["durations"] == [0.65]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.safetensors"]


def test_encode_gives_what_the_library_gives(run, examples, tmp_path, models):
    from audio2img_core import AudioEncoder, load_audio
    from audio2img_core.devices import encoder_dtype

    assert run("encode", examples / "piano.flac", "-o", tmp_path / "e.safetensors", *models("sd15")[:2])[0] == 0
    encoder = AudioEncoder.from_pretrained(models("sd15")[1], dtype=encoder_dtype(torch.device("cpu"), "another"))
    expected = encoder.encode(*load_audio(examples / "piano.flac", sample_rate=None)).tokens
    tokens = load_file(tmp_path / "e.safetensors")[f"{(examples / 'piano.flac').as_posix()}/tokens"]
    assert torch.equal(tokens, expected)


def test_encode_resumes_where_it_was_stopped(run, examples, tmp_path, models, monkeypatch):
    from audio2img_core.batch.embed import EncodeJob

    output = tmp_path / "e.safetensors"
    arguments = ["encode", examples, "-o", output, "--shard-size", "1", *models("sd15")[:2]]
    encoded = []
    real = EncodeJob._write

    def write(self, encoder, shard):
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(shard.loaded[0].clip.key)
        return real(self, encoder, shard)

    monkeypatch.setattr(EncodeJob, "_write", write)
    code, _, err = run(*arguments)
    assert code == 130 and "interrupted" in err and not output.exists()
    assert len(list((tmp_path / "e.safetensors.partial").iterdir())) == 3
    # What a kill in the middle of a write leaves behind is not taken for a complete file.
    (tmp_path / "e.safetensors.partial" / ".half.safetensors").write_bytes(b"half")

    def write_all(self, encoder, shard):
        encoded.append(shard.loaded[0].clip.key)
        return real(self, encoder, shard)

    monkeypatch.setattr(EncodeJob, "_write", write_all)
    code, _, err = run(*arguments)
    assert code == 0 and "3 of 5 sounds are encoded already" in err
    assert sorted(encoded) == sorted(path.as_posix() for path in examples.glob("*.flac"))
    assert len(load_file(output)) == 5 and sorted(p.name for p in tmp_path.iterdir()) == ["e.safetensors"]


def test_encode_adds_new_and_changed_sounds(run, tmp_path, models):
    sounds, output = tmp_path / "s", tmp_path / "e.safetensors"
    sounds.mkdir()
    write_audio(sounds / "a.wav", noise(0.3), 16000)
    assert run("encode", sounds, "-o", output, *models("sd15")[:2])[0] == 0
    before = load_file(output)[f"{sounds.as_posix()}/a.wav/tokens"]
    write_audio(sounds / "b.wav", noise(0.3, seed=2), 16000)
    write_audio(sounds / "a.wav", sine(0.4), 16000)
    assert run("encode", sounds, "-o", output, *models("sd15")[:2])[0] == 0
    tensors = load_file(output)
    assert len(tensors) == 2 and not torch.equal(tensors[f"{sounds.as_posix()}/a.wav/tokens"], before)


def test_encode_refuses_to_mix_encoders_and_settings(run, examples, tmp_path, models):
    output = tmp_path / "e.safetensors"
    sound = examples / "drum.flac"
    assert run("encode", sound, "-o", output, *models("sd15")[:2])[0] == 0
    before = output.read_bytes()
    for options, word in ((models("sd21")[:2], "encoder"), ((*models("sd15")[:2], "--average"), "average")):
        code, _, err = run("encode", sound, "-o", output, *options)
        assert code == 2 and f"made with another {word}" in err
    assert output.read_bytes() == before


def test_encode_of_nothing_that_can_be_read(run, tmp_path, models):
    (tmp_path / "a.wav").write_text("text")
    code, out, err = run("encode", tmp_path / "a.wav", "-o", tmp_path / "e.safetensors", *models("sd15")[:2])
    assert code == 2 and "none of the 1 sounds" in err
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_convert_round_trip(run, examples, tmp_path, models):
    from audio2img_core import AudioEncoder

    folder = models("sd21")[1]
    assert run("convert", folder, tmp_path / "one.safetensors")[0] == 0
    assert run("convert", tmp_path / "one.safetensors", tmp_path / "again")[0] == 0
    a, b = (AudioEncoder.from_pretrained(p).state_dict() for p in (folder, tmp_path / "again"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    code, _, err = run("convert", folder, tmp_path / "again")
    assert code == 2 and "exists already" in err
    assert run("convert", folder, tmp_path / "half.safetensors", "--dtype", "float16")[0] == 0
    assert (tmp_path / "half.safetensors").stat().st_size < 0.7 * (tmp_path / "one.safetensors").stat().st_size
    code, out, _ = run("info", tmp_path / "half.safetensors", "--json")
    facts = json.loads(out)
    assert facts["dtype"] == "F16, F32" and facts["form"] == "single file"  # the empty prompt stays exact


def test_convert_gives_a_seed_checkpoint_its_empty_prompt(run, tmp_path, seed_folder, models):
    from audio2img_core import AudioEncoder

    output = tmp_path / "seed.safetensors"
    assert run("convert", seed_folder, output, "--diffusion", models("sd21")[3])[0] == 0
    encoder = AudioEncoder.from_pretrained(output)
    assert torch.equal(encoder.null_tokens, AudioEncoder.from_pretrained(models("sd21")[1]).null_tokens)
    assert "carried" in run("info", output)[1]
    code, _, err = run("convert", seed_folder, tmp_path / "no.safetensors", "--diffusion", models("sd15")[3])
    assert code == 2 and "'sd21'" in err and not (tmp_path / "no.safetensors").exists()


def test_info(run, models, seed_folder):
    code, out, _ = run("info", models("sdxl")[1])
    assert code == 0
    for words in ("sdxl", "10 s every 10 s", "76 x 2048", "1280", "carried", "2 layers x 32", "parameters", "training"):
        assert words in out
    assert "47 x 1024" in run("info", seed_folder)[1]
    code, _, err = run("info", "/nothing")
    assert code == 2 and "no such encoder" in err


def test_init_refuses_to_overwrite(run, tmp_path):
    (tmp_path / "encoder").mkdir()
    code, _, err = run("init", tmp_path, "--target", "sd15")
    assert code == 2 and "exists already" in err and list((tmp_path / "encoder").iterdir()) == []


def test_help(run):
    for command in ([], ["generate"], ["encode"], ["info"], ["convert"], ["init"]):
        code, out, _ = run(*command, "--help")
        assert code == 0 and "usage: audio2img" in out
    assert run("--version")[1].startswith("audio2img 0.")


@pytest.mark.slow
def test_a_full_size_encoder_encodes_in_under_6_gb(tmp_path, examples):
    environment = {**os.environ, "PYTHONPATH": str(examples.parent)}

    def audio2img(*arguments):
        """Run in a process of its own; returns the peak of its memory in bytes."""
        code = (
            "import resource, sys\nfrom audio2img_core.cli import main\ncode = main(sys.argv[1:])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\nraise SystemExit(code)"
        )
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1]) * 1024

    audio2img("init", tmp_path, "--target", "sd21", "--size", "full", "--only", "encoder", "--head", "conv")
    assert (tmp_path / "encoder" / "model.safetensors").stat().st_size > 2.4e9
    peak = audio2img(
        "encode", examples / "piano.flac", "-o", tmp_path / "e.safetensors", "--encoder", tmp_path / "encoder"
    )
    (tmp_path / "encoder" / "model.safetensors").unlink()  # pytest keeps its folders for a while
    assert peak < 6e9
    (tokens,) = load_file(tmp_path / "e.safetensors").values()
    assert tokens.shape == (2, 47, 1024) and tokens.isfinite().all()


def test_hear_names_the_captions_and_draws(run, examples, tmp_path, models):
    (tmp_path / "captions.txt").write_text("a piano\n\na dog\nrain\n")
    given = ["--captions", tmp_path / "captions.txt", *models("sd15")]
    pictures = ["--bars", tmp_path / "bars.png", "--spectrogram", tmp_path / "mel.png"]
    code, out, _ = run("hear", examples / "drum.flac", *given, *pictures, "--top", 2)
    assert code == 0
    name, named = out.strip().split(": ")
    assert name == "drum.flac" and len(named.split(", ")) == 2 and "%" in named
    assert Image.open(tmp_path / "bars.png").size[0] == 480 and Image.open(tmp_path / "mel.png").size == (960, 420)
    code, out, _ = run("hear", examples / "drum.flac", examples / "piano.flac", *given)
    assert code == 0 and [line.split(":")[0] for line in out.splitlines()] == ["drum.flac", "piano.flac"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", "0"], "--top must be at least 1"),
        (["--bars", "bars.jpg"], "written as .png"),
        (["--captions", "none.txt"], "none.txt"),
        (["--captions", "one.txt"], "at least two captions"),
        (["--captions", "many.txt"], "at most 1000 are compared at once, not 1001"),
        (["--start", "-1"], "--start must be"),
    ],
)
def test_hear_says_what_is_wrong(run, examples, tmp_path, monkeypatch, no_models, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "many.txt").write_text("\n".join(f"thing {number}" for number in range(1001)))
    (tmp_path / "one.txt").write_text("a piano\n")
    code, _, err = run("hear", examples / "drum.flac", *words)
    assert code == 2 and message in err and len(err.splitlines()) == 1
    code, _, err = run("hear", examples / "drum.flac", examples / "piano.flac", "--bars", "b.png")
    assert code == 2 and "a single sound" in err


def test_info_of_a_sound_says_what_it_tells_of(examples, capsys):
    assert main(["info", str(examples / "piano.flac")]) == 2
    assert "allowed are an encoder (folder, .safetensors file, hub id) and a .png picture" in capsys.readouterr().err


def test_info_leaves_out_what_is_not_told(capsys):
    from audio2img_core.cli.info import said

    assert said({"data": "", "steps": 3, "figures": {"cosine": 0.5}}) == "steps 3, figures (cosine 0.5)"
    assert said({"best_step": 0, "figures": {"a2t_r1": 0.0}, "more": {}}) == "best_step 0, figures (a2t_r1 0.0)"
    assert said({"data": ""}) == said({}) == "not told" and said("mini") == "mini"
