"""The mini recipe's trainings, two steps of each: from a data folder to the folder that is shipped."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image, ImageDraw

from audio2img_core import AudioEncoder, AudioToImagePipeline
from audio2img_core.random_init import make_pair
from tests.helpers.audio import noise, sine, write_audio
from training.recipes.mini import autoencoder, train
from training.recipes.mini.captions import Captions
from training.recipes.mini.images import load_pictures, side_by_side
from training.recipes.mini.loop import train as loop
from training.recipes.mini.sound_prompts import SOUND, SoundPrompts
from training.recipes.mini.sounds import read_jsonl, write_jsonl

CONCEPTS = {"piano": "black", "dog": "brown", "rain": "blue", "cat": "orange"}
ROLES = dict.fromkeys(train.STYLES, "draw") | {"openmoji": "judge", "twemoji": "unseen"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four concepts, each a disc of its colour in every style and a few seconds of sound in every split."""
    folder = tmp_path_factory.mktemp("data")
    pictures = []
    for concept, colour in CONCEPTS.items():
        for number, (style, role) in enumerate(ROLES.items()):
            image = Image.new("RGB", (128, 128), "white")
            ImageDraw.Draw(image).ellipse((20, 20, 80 + 4 * number, 80 + 4 * number), fill=colour)
            image.save(folder / f"{concept}-{style}.png")
            row = {"picture": f"{concept}-{style}.png", "concept": concept, "style": style, "role": role}
            pictures.append(row | {"package": f"@icons/{style}", "version": "1.0", "licence": "MIT"})
    write_jsonl(folder / "pictures.jsonl", pictures)
    every = []
    heard = (sine(1.0), sine(1.0, freq=90.0), noise(1.0), sine(1.0, freq=900.0))
    for split in ("train", "valid", "test"):
        rows = []
        for number in range(4):
            for concept, sound in zip(CONCEPTS, heard, strict=True):
                name = f"{split}-{concept}-{number}.wav"
                write_audio(folder / name, sound, 16_000)
                row = {"audio": name, "concept": concept, "split": split}
                rows.append(row | {"package": f"{split}-sounds", "version": "2.0", "licence": "CC0-1.0"})
        write_jsonl(folder / f"{split}.jsonl", rows)
        every += rows
    write_jsonl(folder / "sounds.jsonl", every)
    return folder


def test_sounds_as_prompts(data):
    """Three concepts of which the encoder hears 0 and 2; 1 it always takes for 2."""
    captions = Captions(["piano", "dog", "rain"], [["a piano"], ["a dog"], ["rain"]], ["", "flat"])
    encoder = make_pair("mini")[0]
    prompt = torch.eye(3, 256)[:, None].expand(3, 77, 256)  # of each concept, the same at every position
    shares = torch.tensor([[1.0, 0.0, 0.4], [0.0, 0.3, 1.0], [0.0, 0.1, 1.0]])  # of the prompts in each sound
    heard = torch.einsum("sc,ctd->std", shares, prompt[:, 1:])
    sounds = SoundPrompts(torch.zeros(1, 256), heard.half(), {0: [0], 1: [1], 2: [2]}, {})
    generator = torch.Generator().manual_seed(0)

    def texts(asked, generator):
        return torch.full((len(asked), 77, 256), -1.0)

    said = sounds.drawn(captions, generator, 64)
    assert sum(words == SOUND for words, *_ in said) == 32
    tokens = sounds.prompts(texts, said, generator)
    for (words, shown, style), prompts in zip(said, tokens, strict=True):
        if words == SOUND:
            assert style == 0 and torch.equal(prompts[1:], heard[shown[0]].half().float())
        else:
            assert (prompts == -1).all()

    settled = sounds.settled(encoder, prompt, [0, 1, 2])
    assert settled.rows == {0: [0], 2: [2]} and settled.rivals == {0: 2}  # what 2 is taken for, none hears right
    said = settled.drawn(captions, generator, 400)
    pianos = [i for i, (words, shown, _) in enumerate(said) if words == SOUND and shown == [0]]
    shares = settled.prompts(texts, said, generator)[pianos][:, 1:, 0].mean(1)  # 1 - share of rain
    assert ((shares > 0.5) & (shares <= 1)).all() and 0.3 < (shares < 1).float().mean() < 0.7
    with pytest.raises(ValueError, match="not one sound is heard right"):
        SoundPrompts(sounds.bos, heard[1:2].half(), {0: [], 1: [0]}, {}).settled(encoder, prompt[[1, 2]], [1, 0])


@pytest.mark.slow
def test_one_command_trains_every_part_and_its_export_hears_and_draws(data, tmp_path, monkeypatch):
    shipped, run = tmp_path / "shipped", tmp_path / "run"
    monkeypatch.setattr(train.diffusion, "train_unet", _small_batches(train.diffusion.train_unet, 4))
    monkeypatch.setattr(train.autoencoder, "train_autoencoder", _small_batches(autoencoder.train_autoencoder, 4))
    line = ["--data", str(data), "--output", str(run), "--scale", "0", "--export", str(shipped)]
    assert train.main(line) == 0
    names = json.loads((shipped / "captions.json").read_text())
    assert names == ["a piano", "a dog", "rain"]  # a cat is drawn only
    sources = (shipped / "SOURCES.md").read_text()
    assert "| train-sounds | 2.0 | CC0-1.0 | 16 |" in sources and "| @icons/noto | 1.0 | MIT | 4 |" in sources
    assert "test-sounds" not in sources and "openmoji" not in sources
    assert AudioEncoder.from_pretrained(shipped / "encoder").config.target == "mini"
    assert str(tmp_path) not in (shipped / "encoder" / "config.json").read_text()
    pipe = AudioToImagePipeline.from_pretrained(shipped / "encoder", shipped / "diffusion", device="cpu")
    heard = pipe.encode(str(data / "test-dog-0.wav"))
    assert {each.caption for each in pipe.hear(heard, names)[0]} == set(names)
    (image,) = pipe(heard, steps=2, seed=0).images
    assert image.size == (128, 128)
    assert "a cat" in {row["caption"] for row in read_jsonl(run / "hearing" / "manifests" / "train.jsonl")}
    assert {row["caption"] for row in read_jsonl(run / "encoder" / "manifests" / "train.jsonl")} == set(names)
    files = [*run.glob("*/*.pt"), *run.glob("*/encoder.safetensors")]
    made = {path: path.stat().st_mtime_ns for path in files}
    assert {path.parent.name for path in made} == set(train.STEPS)
    assert train.main(line[:-2]) == 0  # finished parts are loaded, not trained again
    assert made == {path: path.stat().st_mtime_ns for path in made}


def _small_batches(function, size):
    return lambda *args, **options: function(*args, **{**options, "batch_size": size})


def test_a_stopped_part_goes_on_to_the_same_weights(tmp_path):
    def begin():
        torch.manual_seed(0)
        return torch.nn.Linear(4, 1)

    def run(folder, stop_at=None):
        model, calls = begin(), []

        def loss(generator):
            calls.append(1)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            x = torch.randn(8, 4, generator=generator)
            return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}

        loop("part", model, loss, folder, steps=30, learning_rate=0.1, warmup=2, ema_decay=0.9, save_seconds=0.0)
        return model.state_dict(), len(calls)

    unbroken, steps = run(tmp_path / "unbroken")
    assert steps == 30
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_at=18)
    resumed, steps = run(tmp_path / "stopped")
    assert steps == 30 - 17
    torch.testing.assert_close(resumed, unbroken)


def test_a_part_whose_loss_is_not_finite_says_where(tmp_path):
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="part: the loss is nan at step 1"):
        loop("part", model, lambda g: {"loss": model.weight.sum() * float("nan")}, tmp_path, steps=2, learning_rate=1)


def test_what_is_said_is_what_is_shown():
    captions = Captions(["piano", "dog"], [["a piano", "piano"], ["a dog", "dog"]], ["noto", "flat"])
    drawn = captions.draw(torch.Generator().manual_seed(0), 400)
    for text, shown, style in drawn:
        assert [captions.concepts[i] in text for i in (0, 1)] == [i in shown for i in (0, 1)]
        assert text.endswith(", flat style") == (style == 1)
        if len(shown) == 2:
            first, second = (captions.concepts[i] for i in shown)
            assert text.index(first) < text.index(second)
    assert {len(shown) for _, shown, _ in drawn} == {1, 2} and {style for *_, style in drawn} == {0, 1}


def test_two_pictures_stand_side_by_side(data):
    pictures = load_pictures(data).where(roles=["draw"], concepts=["dog", "rain"]).pixels
    left, right = pictures[:1], pictures[-1:]
    both = side_by_side(left, right)
    assert both.shape == left.shape and (both[..., :32, :] == 1).all() and (both[..., 96:, :] == 1).all()
    blue_over_red = [(half[0, 2] - half[0, 0]).mean() for half in both.chunk(2, dim=-1)]
    assert blue_over_red[0] < 0 < blue_over_red[1]
