"""The command line `audio2img-train` on real files."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from safetensors import safe_open

from audio2img_core import AudioEncoder
from audio2img_core.cli import main as audio2img
from tests.helpers.audio import noise, write_audio
from training.cli import main
from training.cli.flags import more_flags
from training.config import SECTIONS
from training.fields import field_help


@pytest.fixture(scope="module")
def run(tmp_path_factory, examples, tiny_folders):
    """A finished run of the default preset on the example recordings, started by the command line with a YAML file."""
    folder = tmp_path_factory.mktemp("cli")
    rows = [{"audio": str(p), "caption": [f"the sound of a {p.stem}", p.stem]} for p in sorted(examples.glob("*.flac"))]
    (folder / "sounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "run": {"target": "sd15", "backbone": "tiny", "licence": "CC0-1.0", "eval_share": 0.4},
        "window": {"seconds": 2.0},
        "trainer": {"max_steps": 4, "per_device_train_batch_size": 2, "logging_steps": 2, "use_cpu": True},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    teacher = str(tiny_folders("sd15") / "diffusion")
    where = ["--data", str(folder / "sounds.jsonl"), "--teacher", teacher, "--output", str(folder / "run")]
    assert main(["fit", "--config", str(folder / "mine.yaml"), *where, "--trainer.learning_rate=1e-3"]) == 0
    return folder


def test_fit_leaves_all_that_it_promises(run):
    output = run / "run"
    names = {path.name for path in output.iterdir()}
    assert names >= {"settings.yaml", "metrics.jsonl", "tensorboard", "skipped.csv", "encoder", "encoder.safetensors"}
    for plot in ("losses.png", "similarity.png", "norms.png"):
        assert (output / plot).read_bytes().startswith(b"\x89PNG")
    assert list((output / "tensorboard").glob("events.out.tfevents.*"))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4]
    assert {"sequence", "pooled", "regression", "temperature", "learning_rate"} <= lines[0].keys()
    final = next(line for line in lines if "final_cosine" in line)
    assert {"final_a2t_r1", "final_mean_cosine", "final_ceiling_a2t_r1", "final_effective_rank"} <= final.keys()
    settings = yaml.safe_load((output / "settings.yaml").read_text())
    assert settings["trainer"]["learning_rate"] == 1e-3 and settings["run"]["licence"] == "CC0-1.0"


def test_the_model_card_tells_data_figures_and_licence(run):
    card = (run / "run" / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["license_name"] == "CC0-1.0" and "target:sd15" in metadata["tags"]
    assert "sounds.jsonl" in card and "2 clips that were not trained on" in card
    row = next(line for line in card.splitlines() if line.startswith("| cosine, all positions"))
    assert len(re.findall(r"\d\.\d{3}", row)) == 5
    for picture in re.findall(r"\]\((\w+\.png)\)", card):
        assert (run / "run" / picture).is_file()


def test_the_exported_file_draws(run, tiny_folders, examples, capsys):
    file = run / "run" / "encoder.safetensors"
    picture = run / "piano.png"
    models = ["--encoder", str(file), "--diffusion", str(tiny_folders("sd15") / "diffusion")]
    assert audio2img(["generate", str(examples / "piano.flac"), "-o", str(picture), *models, "--steps", "1"]) == 0
    assert picture.is_file()
    with safe_open(file, "pt") as opened:
        config = json.loads(opened.metadata()["audio2img_config"])
    assert config["training"]["steps"] == 4 and config["training"]["licence"] == "CC0-1.0"
    assert audio2img(["info", str(file)]) == 0
    assert "CC0-1.0" in capsys.readouterr().out


def test_an_encoder_that_goes_on_keeps_the_licence_it_started_with(run, capsys):
    settings = yaml.safe_load((run / "mine.yaml").read_text())
    before = yaml.safe_load((run / "run" / "settings.yaml").read_text())["run"]
    start = {"encoder": str(run / "run" / "encoder"), "output": str(run / "further"), "licence": "MIT"}
    settings["run"] = {**before, **start}
    settings["trainer"]["max_steps"] = 1
    (run / "further.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", str(run / "further.yaml")]) == 0
    assert "training on cpu: steps 0 to 1, a line every 2\n" in capsys.readouterr().err
    card = (run / "further" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license_name"] == "MIT and CC0-1.0"
    assert "License of the data: MIT." in card and "started from: MIT and CC0-1.0." in card
    told = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert "head" not in told and "window" not in told and "backbone" not in told["run"]


def test_the_same_command_again_changes_nothing(run):
    before = AudioEncoder.from_pretrained(run / "run" / "encoder.safetensors")
    settings = yaml.safe_load((run / "run" / "settings.yaml").read_text())
    (run / "again.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", str(run / "again.yaml")]) == 0
    after = AudioEncoder.from_pretrained(run / "run" / "encoder.safetensors")
    assert after.config.to_dict() == before.config.to_dict()
    assert all(torch.equal(after.state_dict()[name], w) for name, w in before.state_dict().items())
    steps = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum("final_loss" in line for line in steps) == 1


def test_eval_prints_and_writes_the_figures(run, tiny_folders, capsys):
    encoder, teacher = str(run / "run" / "encoder"), str(tiny_folders("sd15") / "diffusion")
    data = ["--data", str(run / "sounds.jsonl"), "--teacher", teacher]
    files = ["-o", str(run / "figures.json"), "--plots", str(run / "plots")]
    assert main(["eval", encoder, *data, "--batch-size", "2", *files]) == 0
    printed = capsys.readouterr().out
    assert "5 clips, 10 distinct captions" in printed and "| R@1, audio to text |" in printed
    figures = json.loads((run / "figures.json").read_text())
    assert figures["clips"] == 5 and 0 <= figures["a2t_r1"] <= 1
    assert (run / "plots" / "norms.png").is_file() and (run / "plots" / "similarity.png").is_file()


def test_eval_is_what_encode_gives(run, tiny_folders, examples):
    from audio2img_core import load_audio
    from training.evaluation.evaluate import evaluate

    encoder = AudioEncoder.from_pretrained(run / "run" / "encoder")
    _, evaluated, first = evaluate(encoder, run / "sounds.jsonl", tiny_folders("sd15") / "diffusion", device="cpu")
    waveform, rate = load_audio(sorted(examples.glob("*.flac"))[1], duration=2.0 + 0.015)
    tokens = encoder.encode(waveform, rate).tokens[0]
    assert first == 1 and evaluated.audio.shape[1:] == tokens.shape
    assert (evaluated.audio[1] - tokens).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run.data": "/no/such/folder"}, "/no/such/folder: no such file or folder"),
        ({"run.target": "sd21"}, "cannot teach the target 'sd21'"),
        ({"trainer.learning_rat": "1"}, "did you mean 'learning_rate'"),
        ({"trainer.save_only_model": "true"}, "the run could not be resumed"),
        ({"trainer.eval_strategy": "sometimes"}, "sometimes"),
        ({"run.early_stopping": "2", "trainer.eval_strategy": "no"}, "trainer"),
        ({"run.lora_rank": "-1"}, "run.lora_rank must be at least 0, not -1"),
        ({"loss.temperature": "cold"}, "loss.temperature must be a number, not 'cold'"),
    ],
)
def test_bad_settings_get_one_line(words, tmp_path, capsys, changes, message):
    command = ["fit", *words(tmp_path / "run", **changes)]
    capsys.readouterr()  # what making the models wrote
    assert main(command) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("audio2img-train: error: ") and message in errors[0]
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("sound,text2\na.wav,x\n", "no column audio"),
        ("audio,words\na.wav,x\n", "no column caption; found: audio, words"),
        ("audio,caption\na.wav,\n", "empty or missing"),
        ("audio,caption\n", "no clip found"),
    ],
)
def test_bad_data_gets_one_line(words, tmp_path, capsys, manifest, message):
    (tmp_path / "list.csv").write_text(manifest)
    command = ["fit", *words(tmp_path / "run", **{"run.data": str(tmp_path / "list.csv")})]
    capsys.readouterr()  # what making the models wrote
    assert main(command) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and message in errors[0]


def test_unknown_arguments_name_the_nearest(capsys):
    assert main(["fit", "--outptu", "x"]) == 2
    assert "did you mean --output?" in capsys.readouterr().err
    assert main(["fit", "--preset", "defualt"]) == 2
    assert "did you mean 'default'?" in capsys.readouterr().err


def test_help_tells_every_field(capsys):
    for name, section in SECTIONS.items():
        assert list(field_help(section)) == list(section.__dataclass_fields__), name
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "--loss.temperature" in printed and "--ema-decay" in printed and "TrainingArguments" in printed
    assert "Share of the clips held out for evaluation where eval_data is empty (default: 0.1)" in printed


def test_help_shows_the_defaults_of_the_preset_and_of_files(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("head: {width: 96}\n")
    for words, shown in (
        ([], ["(default: query)", "window in seconds (default: 10.0)", "learning_rate 0.0001"]),
        (["--preset", "kardsim"], ["(default: conv)", "window in seconds (default: 3.75)", "learning_rate 2e-05"]),
        (["--config", str(tmp_path / "mine.yaml")], ["inside the query head (default: 96)"]),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["fit", *words, "--help"])
        printed = " ".join(capsys.readouterr().out.split())
        assert stopped.value.code == 0
        for text in shown:
            assert text in printed


def test_flags_with_and_without_values():
    words = ["--trainer.bf16", "--trainer.seed", "-1", "--trainer.run_name=a b", "--loss.bank"]
    expected = {"trainer.bf16": "true", "trainer.seed": "-1", "trainer.run_name": "a b", "loss.bank": "true"}
    assert more_flags(words) == expected


def test_too_many_bad_clips_stop_with_the_reasons(words, tmp_path, capsys):
    for i in range(24):
        (tmp_path / f"{i}.txt").write_text("noise")
        if i < 4:
            write_audio(tmp_path / f"{i}.wav", noise(1.0, seed=i), 16000)
        else:
            (tmp_path / f"{i}.wav").write_bytes(b"no sound")
    assert main(["fit", *words(tmp_path / "run", **{"run.data": str(tmp_path)})]) == 2
    errors = capsys.readouterr().err.strip().splitlines()[-1]
    assert "are bad, more than max_bad_share 5%" in errors and "skipped.csv" in errors
    assert "cannot be decoded" in (tmp_path / "run" / "skipped.csv").read_text()
