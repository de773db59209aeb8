"""Settings of a run, and a run of a few real steps on real files."""

import json

import pytest
import torch
import yaml

from audio2img_core import AudioEncoder, AudioToImagePipeline
from audio2img_core.conditioning.text import encode_text
from audio2img_core.encoder.windows import WindowConfig
from tests.helpers.audio import noise, sine, write_audio
from training.config import PRESETS, FitConfig, load_settings
from training.data.config import DataConfig
from training.data.features import batch_features
from training.loop.fit import fit
from training.loop.start import TrainedEncoder, freeze, layered_optimizer


@pytest.mark.parametrize("preset", ["default", pytest.param("kardsim", marks=pytest.mark.slow)])
def test_a_few_steps_make_an_encoder_that_draws(flags, tiny_folders, tmp_path, preset):
    output = tmp_path / "run"
    more = {"trainer.max_steps": "12", "trainer.logging_steps": "4"}
    config = load_settings(preset, [], flags(output, **more))
    trainer = fit(config)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3 and losses[-1] < losses[0]
    encoder = AudioEncoder.from_pretrained(output / "encoder.safetensors")
    assert encoder.config.head.kind == ("query" if preset == "default" else "conv")
    clip = noise(1.0)
    folder = AudioEncoder.from_pretrained(output / "encoder")
    assert torch.equal(folder.encode(clip, 16000).tokens, encoder.encode(clip, 16000).tokens)
    pipe = AudioToImagePipeline.from_pretrained(output / "encoder.safetensors", tiny_folders("sd15") / "diffusion")
    torch.testing.assert_close(encoder.null_tokens, encode_text(pipe.diffusion, "").tokens[0])
    assert pipe((clip, 16000), steps=1).images
    assert yaml.safe_load((output / "settings.yaml").read_text()) == config.to_dict()
    with pytest.raises(ValueError, match="run of other settings .*trainer.max_steps"):
        fit(load_settings(preset, [], flags(output, **{**more, "trainer.max_steps": "13"})))


STOPPED = {"run.ema_decay": "0.5", "run.early_stopping": "1", "trainer.learning_rate": "0"}


@pytest.mark.parametrize("more", [{}, pytest.param(STOPPED, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_behind_its_last_step_only_finishes(flags, tmp_path, more):
    """Not one step more, however often it is killed while it is judged and written."""
    output = tmp_path / "run"
    more = {"trainer.logging_steps": "1", "trainer.max_steps": "9" if more else "3", **more}
    config = load_settings("default", [], flags(output, **more))
    first = fit(config)
    assert first.state.global_step == (6 if "run.early_stopping" in more else 3)
    wanted = AudioEncoder.from_pretrained(output / "encoder").state_dict()
    log = (output / "metrics.jsonl").read_text().splitlines()
    for _ in range(2):
        (output / "encoder.safetensors").unlink()
        again = fit(config)
        assert again.state.global_step == first.state.global_step
        steps = [json.loads(line).get("step") for line in (output / "metrics.jsonl").read_text().splitlines()]
        assert max(steps) == first.state.global_step and len(steps) == len(log) - 1  # the time it took is gone
        for name, weight in AudioEncoder.from_pretrained(output / "encoder").state_dict().items():
            assert torch.equal(weight, wanted[name]), name


def test_chunks_train_as_the_whole_batch(flags, tmp_path):
    losses = []
    for chunk in ("0", "3"):
        more = {"run.chunk_size": chunk, "trainer.max_steps": "2", "trainer.logging_steps": "1"}
        config = load_settings("default", [], flags(tmp_path / chunk, **more))
        losses.append([e["loss"] for e in fit(config).state.log_history if "loss" in e])
    # Without dropout they would be equal; with it the chunks draw other numbers.
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run.data": ""}, "run.data is empty"),
        ({"run.teacher": ""}, "run.teacher is empty"),
        ({"run.data": "/nothing/here"}, "/nothing/here"),
        ({"run.target": "sdxl"}, "sdxl"),
        ({"run.output": "/proc/nowhere"}, "cannot be written"),
        ({"run.freeze_layers": "9"}, "2 layers"),
    ],
)
def test_bad_settings_stop_before_the_first_step(flags, tmp_path, changes, message):
    config = load_settings("default", [], flags(tmp_path / "run", **changes))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(config)


@pytest.mark.parametrize("preset", sorted(p.stem for p in PRESETS.glob("*.yaml")))
def test_presets_are_whole(preset):
    config = load_settings(preset, [], {})
    assert FitConfig.from_dict(config.to_dict()) == config


def test_later_settings_win(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("loss:\n  temperature: 0.2\ntrainer:\n  learning_rate: 1e-4\n")
    config = load_settings("kardsim", [file], {"loss.temperature": "3e-1", "run.eval-share": "0.2"})
    assert config.loss.temperature == 0.3 and config.run.eval_share == 0.2
    assert config.trainer["learning_rate"] == 1e-4 and config.head.kind == "conv"
    assert load_settings(None, [], {"trainer.eval_strategy": "no"}).trainer["eval_strategy"] == "no"
    assert load_settings("seed", [], {}) == load_settings("kardsim", [], {})  # its former name
    assert load_settings(None, [], {"run.data": "007"}).run.data == "007"  # a folder, not a number


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("defualt", {}, "unknown preset 'defualt' .did you mean 'default'"),
        (None, {"los.temperature": "1"}, "unknown section 'los' .did you mean 'loss'"),
        (None, {"loss.temprature": "1"}, "'temprature' .did you mean 'temperature'"),
        (None, {"trainer.learning_rat": "1"}, "did you mean 'learning_rate'"),
        (None, {"loss.temperature": "warm"}, "loss.temperature must be a number, not 'warm'"),
        (None, {"loss.bank": "3"}, "loss.bank must be true or false, not 3"),
        (None, {"window.seconds": "null"}, "window.seconds must be a number, not None"),
        (None, {"run.target": "sd99"}, "unknown target 'sd99'"),
        (None, {"run.layer_decay": "2"}, "between 0 and 1"),
    ],
)
def test_unknown_and_impossible_settings_are_refused(preset, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        load_settings(preset, [], settings)
    assert "\n" not in str(error.value)


def test_settings_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such settings file"):
        load_settings(None, [tmp_path / "none.yaml"], {})
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="sections of fields"):
        load_settings(None, [tmp_path / "list.yaml"], {})
    (tmp_path / "broken.yaml").write_text("a: [\n")
    with pytest.raises(ValueError, match="not a YAML file"):
        load_settings(None, [tmp_path / "broken.yaml"], {})


def test_training_features_are_those_of_inference():
    from audio2img_core.random_init import make_encoder

    for window in (
        WindowConfig(seconds=1.0),
        WindowConfig(seconds=1.0, padding="repeat"),
        WindowConfig(seconds=1.0, padding="constant", pad_value=1.0, normalize="clip"),
    ):
        encoder = make_encoder("sd15", head="conv")
        encoder.config.window = window
        clips = [noise(1.01), noise(0.4)]
        padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        features, mask = batch_features(padded, torch.tensor([len(c) for c in clips]), window)
        with torch.no_grad():
            tokens = encoder(features, mask).tokens
        torch.testing.assert_close(tokens, encoder.encode(clips, 16000).tokens, atol=1e-5, rtol=0)
    _, mask = batch_features(padded, torch.tensor([len(c) for c in clips]), window, mask_padding=True)
    assert mask.sum(1).tolist() == [49, 19]


def test_freezing_and_layer_rates():
    from transformers import TrainingArguments

    from audio2img_core.random_init import make_encoder

    encoder = make_encoder("sd15")
    freeze(encoder, 1)
    assert not any(p.requires_grad for p in encoder.backbone.encoder.layers[0].parameters())
    assert all(p.requires_grad for p in encoder.backbone.encoder.layers[1].parameters())
    arguments = TrainingArguments(output_dir="x", learning_rate=1.0, use_cpu=True)
    optimizer = layered_optimizer(encoder, arguments, 0.5, set())
    rates = sorted(group["lr"] for group in optimizer.param_groups)
    assert rates == [0.5, 1.0]
    assert layered_optimizer(encoder, arguments, 1.0, set()) is None


def test_every_part_of_a_long_clip_trains_a_short_window(flags, tmp_path):
    """Ten seconds of audio and mini's window of four: the crops fill the window and start anywhere."""
    (tmp_path / "long").mkdir()
    loudness = torch.arange(1, 11).repeat_interleave(16000) / 10
    for i in range(4):
        write_audio(tmp_path / "long" / f"{i}.wav", sine(10.0, freq=400.0 + i) * loudness, 16000)
        (tmp_path / "long" / f"{i}.txt").write_text("a tone")
    data = {"run.data": str(tmp_path / "long"), "run.eval_share": "0.25", "data.gain_db": "0"}
    model = {"run.encoder": "mini", "run.teacher": "mini", "run.target": "mini"}
    more = {"trainer.max_steps": "1", "trainer.per_device_train_batch_size": "2"}
    more |= {"run.chunk_size": "1"}
    trainer = fit(load_settings("default", [], flags(tmp_path / "run", **data, **model, **more)))
    assert isinstance(trainer.model, TrainedEncoder) and trainer.model.chunk_size == 1
    assert trainer.model.config.window.seconds == 4 and trainer.task.data.window_seconds == 4
    starts = []
    for epoch in range(8):
        trainer.train_dataset.set_epoch(epoch)
        for item in (trainer.train_dataset[i] for i in range(3)):
            assert item["length"] == DataConfig(window_seconds=4.0).samples
            starts.append(item["waveform"][:4000].abs().max().item())
    assert min(starts) < 0.35 * max(starts) and len({round(start, 1) for start in starts}) > 3


def test_the_window_is_the_encoders():
    for preset, more, seconds in (
        ("default", {}, 10.0),
        ("default", {"window.seconds": "2", "data.window_seconds": "2"}, 2.0),
        ("default", {"run.encoder": "mini"}, 4.0),
        ("default", {"run.encoder": "mini", "data.window_seconds": "4.0"}, 4.0),
        ("kardsim", {}, None),
        ("seed", {"data.window_seconds": "null"}, None),
    ):
        config = load_settings(preset, [], more)
        assert config.data.window_seconds == seconds
        assert FitConfig.from_dict(config.to_dict()) == config
    for preset, more, message in (
        ("default", {"data.window_seconds": "2"}, r"data.window_seconds is 2, but .* takes windows of 10 s"),
        ("default", {"run.encoder": "mini", "data.window_seconds": "10"}, r"the encoder mini takes windows of 4 s"),
        ("default", {"data.window_seconds": "null"}, r"data.window_seconds is null, but .* takes windows of 10 s"),
        ("kardsim", {"data.window_seconds": "3.75"}, r"takes whole clips \(null\)"),
    ):
        with pytest.raises(ValueError, match=message):
            load_settings(preset, [], more)
    with pytest.raises(FileNotFoundError, match="/no/such: no such"):
        load_settings("default", [], {"run.encoder": "/no/such"})
