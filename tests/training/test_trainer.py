"""What the trainer adds to transformers': averages, adapters, figures, mixed clips, and what stops a run."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from audio2img_core import AudioEncoder
from audio2img_core.random_init import make_encoder
from tests.helpers.audio import noise, write_audio
from training.config import RunConfig, load_settings
from training.evaluation.evaluator import Evaluator
from training.loop.average import WeightAverage
from training.loop.checkpoints import mark_whole, remove_broken, rotate, whole_checkpoints
from training.loop.collator import Collator
from training.loop.fit import fit
from training.loop.start import TrainedEncoder, add_lora
from training.teacher.captions import CaptionCache
from training.teacher.text_encoder import Teacher


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# average of the weights


def test_average_follows_its_formula(tmp_path):
    module, decay = nn.Linear(2, 2, bias=False), 0.5
    average, expected = WeightAverage(module, decay), None
    for step in range(1, 6):
        with torch.no_grad():
            module.weight.copy_(torch.full((2, 2), float(step**2)))
        average.update()
        share = 0.0 if step <= 1 else min(decay, step / (step + 9))  # of EMAModel, whose n is step - 1
        expected = share * (expected or 0.0) + (1 - share) * step**2
    with average.swapped():
        assert module.weight[0, 0].item() == pytest.approx(expected)
    assert module.weight[0, 0].item() == 25
    average.save(tmp_path)
    other = WeightAverage(module, decay)
    other.load(tmp_path)
    for one in (average, other):
        one.update()
    other.apply()
    with average.swapped():
        kept = module.weight.clone()
    assert torch.equal(kept, module.weight)
    with pytest.raises(ValueError, match="other weights"):
        WeightAverage(nn.Linear(3, 1), decay).load(tmp_path)
    with pytest.raises(ValueError, match="no average"):
        other.load(tmp_path / "none")


def test_the_average_is_what_is_kept(flags, tmp_path):
    more = {"run.ema_decay": "0.99", "trainer.load_best_model_at_end": "false", "trainer.save_steps": "6"}
    trainer = fit(load_settings("default", [], flags(tmp_path / "run", **more)))
    kept = AudioEncoder.from_pretrained(tmp_path / "run" / "encoder.safetensors").state_dict()
    last = tmp_path / "run" / "checkpoints" / "checkpoint-6"
    average = WeightAverage(trainer.model, 0.99)
    average.load(last)
    raw = TrainedEncoder.from_pretrained(last).state_dict()
    average.apply()
    name = "head.out.weight"
    assert torch.equal(kept[name], trainer.model.state_dict()[name]) and not torch.equal(kept[name], raw[name])


# adapters and freezing


def test_lora_trains_the_adapters_and_the_head_only(flags, tmp_path):
    more = {"run.lora_rank": "2", "run.lora_alpha": "4", "run.freeze_layers": "1", "trainer.max_steps": "4"}
    start = make_encoder("sd15")
    fit(load_settings("default", [], flags(tmp_path / "run", **more)))
    encoder = AudioEncoder.from_pretrained(tmp_path / "run" / "encoder.safetensors")  # strictly: no adapter is left
    changed = {n for n, w in encoder.state_dict().items() if n.startswith("backbone.encoder.layers")}
    seeded = load_settings("default", [], flags(tmp_path / "x", **more))
    from training.loop.start import start_encoder

    start = start_encoder(seeded, seed=42).state_dict()
    changed = {n for n, w in encoder.state_dict().items() if n in start and not torch.equal(w, start[n])}
    layers = {n for n in changed if n.startswith("backbone.")}
    assert layers and all(n.startswith("backbone.encoder.layers.1.") and n.endswith(".weight") for n in layers)
    assert all(("self_attn.linear_" in n) or ("_dense." in n) for n in layers)
    assert any(n.startswith("head.") for n in changed)


def test_merged_lora_says_the_same():
    encoder = make_encoder("sd15")
    adapted = add_lora(encoder, RunConfig(lora_rank=2, lora_alpha=8))
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    features = torch.randn(1, 20, 160)
    with torch.no_grad():
        before = encoder.eval()(features).tokens
        after = adapted.merge_and_unload()(features).tokens
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


# whole checkpoints


def test_only_marked_checkpoints_count(tmp_path):
    for step in (2, 10, 9, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"x")
    (tmp_path / "checkpoint-best").mkdir()
    for step in (2, 10, 9):
        mark_whole(tmp_path / f"checkpoint-{step}")
    assert [p.name for p in whole_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-9", "checkpoint-10"]
    assert [p.name for p in remove_broken(tmp_path)] == ["checkpoint-30"]
    assert (tmp_path / "checkpoint-best").is_dir()
    rotate(tmp_path, 2, best=2)
    assert [p.name for p in whole_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
    rotate(tmp_path, 1, best=2)
    assert [p.name for p in whole_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
    rotate(tmp_path, 1, best=None)
    assert [p.name for p in whole_checkpoints(tmp_path)] == ["checkpoint-10"]
    assert whole_checkpoints(tmp_path / "none") == []


# best checkpoint, early stopping


def test_early_stopping_keeps_the_best(flags, tmp_path):
    more = {"run.early_stopping": "2", "trainer.eval_steps": "1", "trainer.save_steps": "1", "trainer.max_steps": "40"}
    # With such a rate every step makes it worse than the first.
    more |= {"trainer.learning_rate": "1.0", "trainer.warmup_steps": "0"}
    trainer = fit(load_settings("default", [], flags(tmp_path / "run", **more)))
    assert trainer.state.global_step < 40
    cosines = {e["step"]: e["eval_cosine"] for e in trainer.state.log_history if "eval_cosine" in e}
    best = max(cosines, key=cosines.get)
    assert trainer.state.best_global_step == best
    kept = AudioEncoder.from_pretrained(tmp_path / "run" / "encoder")
    saved = AudioEncoder.from_pretrained(tmp_path / "run" / "checkpoints" / f"checkpoint-{best}")
    assert torch.equal(kept.head.out.weight, saved.head.out.weight)


# a learned temperature with layer-wise rates


def test_the_temperature_learns_with_layerwise_rates(flags, tmp_path):
    more = {"run.layer_decay": "0.5", "trainer.learning_rate": "0.01", "trainer.max_steps": "4"}
    trainer = fit(load_settings("default", [], flags(tmp_path / "run", **more)))
    assert trainer.model.logit_scale.item() != pytest.approx(math.log(1 / 0.07), abs=1e-4)
    rates = {round(group["initial_lr"], 6) for group in trainer.optimizer.param_groups}
    assert rates == {0.01, 0.005, 0.0025, 0.00125}
    decayed = {group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert decayed == {0.0, 0.01}


def test_a_new_encoder_carries_the_temperature_it_is_trained_with(flags, tmp_path):
    fit(load_settings("kardsim", [], flags(tmp_path / "run", **{"trainer.max_steps": "1"})))
    encoder = AudioEncoder.from_pretrained(tmp_path / "run" / "encoder")
    assert encoder.logit_scale.item() == pytest.approx(math.log(1 / 0.15))


# compiled


@pytest.mark.slow
def test_compiled_training_gives_the_same_losses(flags, tmp_path):
    runs = []
    for compiled in ("false", "true"):
        more = {"trainer.torch_compile": compiled, "trainer.max_steps": "3", "trainer.logging_steps": "1"}
        more |= {"trainer.torch_compile_backend": "aot_eager"} if compiled == "true" else {}
        runs.append(losses(fit(load_settings("default", [], flags(tmp_path / compiled, **more)))))
    assert runs[0] == pytest.approx(runs[1], rel=0.02)


@pytest.mark.parametrize("preset", ["default", pytest.param("kardsim", marks=pytest.mark.slow)])
def test_checkpointed_activations_give_the_same_losses(flags, tmp_path, preset):
    runs = []
    for kept in ("false", "true"):
        more = {"trainer.gradient_checkpointing": kept, "trainer.max_steps": "2", "trainer.logging_steps": "1"}
        runs.append(losses(fit(load_settings(preset, [], flags(tmp_path / kept, **more)))))
    assert runs[0] == pytest.approx(runs[1], rel=1e-3)


def test_bfloat16_trains_nearly_the_same(flags, tmp_path):
    runs = []
    for half in ("false", "true"):
        more = {"trainer.bf16": half, "trainer.max_steps": "2", "trainer.logging_steps": "1"}
        runs.append(losses(fit(load_settings("default", [], flags(tmp_path / half, **more)))))
    assert runs[0] == pytest.approx(runs[1], rel=0.02) and runs[0] != runs[1]


# bad clips and mixed ones


def test_evaluation_leaves_out_what_cannot_be_read(flags, sounds, tmp_path):
    judged = tmp_path / "judged"
    judged.mkdir()
    for i in range(8):
        for suffix in (".wav", ".txt"):
            shutil.copy(sounds / f"{i:02}{suffix}", judged)
    for i in (1, 4, 5):
        (judged / f"{i:02}.wav").write_bytes(b"no sound")
    more = {"run.eval_data": str(judged), "trainer.per_device_eval_batch_size": "2", "trainer.max_steps": "1"}
    more |= {"data.max_bad_share": "0.9"}
    trainer = fit(load_settings("default", [], flags(tmp_path / "run", **more)))
    final = trainer.state.log_history[-1]
    assert final["final_clips"] == 5 and final["final_unread"] == 3 and math.isfinite(final["final_loss"])
    assert len(trainer.evaluator.last.audio) == 5
    assert (tmp_path / "run" / "skipped.csv").read_text().count("cannot be decoded") == 3


def test_an_evaluation_without_any_clip_says_so():
    evaluator = Evaluator(None, slice(1, 3))
    with pytest.raises(ValueError, match="none of the evaluation clips could be read"):
        evaluator(SimpleNamespace(predictions=torch.zeros(2, 2, 3), label_ids=torch.full((2, 1), -1)))


def test_evaluator_takes_every_right_caption(tiny_folders, tmp_path):
    teacher = Teacher.from_pretrained(tiny_folders("sd15") / "diffusion", "sd15", device="cpu")
    cache = CaptionCache(tmp_path, teacher)
    cache.add(["a", "b", "c", "d"])
    audio = cache.tokens([1, 3])[:, 1:]
    # Clip 0 says what caption b is, clip 1 what d is; Trainer pads with -100, our collator with -1.
    labels = torch.tensor([[0, 1, -1], [3, -100, -100]])
    evaluator = Evaluator(cache, slice(1, 77))
    figures = evaluator(SimpleNamespace(predictions=audio.numpy(), label_ids=labels.numpy()))
    assert figures["a2t_r1"] == 1 and figures["captions"] == 3 and figures["clips"] == 2
    assert evaluator.last.captions == ["a", "b", "d"] and evaluator.last.positives == [[0, 1], [2]]


def test_mixed_clips_are_taught_their_joined_caption(flags, tmp_path):
    more = {"data.mix_probability": "1.0", "trainer.max_steps": "2", "trainer.logging_steps": "1"}
    trainer = fit(load_settings("default", [], flags(tmp_path / "run", **more)))
    assert all(math.isfinite(loss) for loss in losses(trainer))
    batch = next(iter(trainer.get_train_dataloader()))
    joined = [caption for caption in batch["caption"] if " and " in caption]
    assert joined and (batch["rows"] < 0).sum() == len(joined)
    text, ids = trainer.task.text(batch["rows"], batch["caption"])
    at = batch["caption"].index(joined[0])
    torch.testing.assert_close(text["text_tokens"][at], trainer.task.captions.teacher.encode(joined[:1]).tokens[0, 1:])
    assert len({int(i) for i in ids}) == len(set(batch["caption"])) and -1 not in ids


def test_collator_keeps_the_place_of_a_clip_that_cannot_be_read(tiny_folders, tmp_path):
    teacher = Teacher.from_pretrained(tiny_folders("sd15") / "diffusion", "sd15", device="cpu")
    cache = CaptionCache(tmp_path, teacher)
    cache.add(["a", "b"])
    good = {"waveform": torch.ones(900), "length": 900, "caption": "b", "captions": ("b", "a"), "key": "g"}
    bad = {"waveform": torch.zeros(0), "length": 0, "caption": "", "captions": (), "key": ""}
    items = [{**bad, "tried": 1, "skipped": [("x", "why")]}, {**good, "tried": 1, "skipped": []}]
    batch = Collator(cache, training=False, most_captions=2)(items)
    assert batch["rows"].tolist() == [-1, 1] and batch["positives"].tolist() == [[-1, -1], [1, 0]]
    assert batch["waveform"].shape == (2, 900) and batch["skipped"] == [("x", "why")] and batch["tried"] == 2
    assert Collator(cache, training=True, most_captions=2)(items)["rows"].tolist() == [1]
    assert Collator(cache, training=False, most_captions=2)(items[:1])["positives"].tolist() == [[-1, -1]]


# what stops a run


def test_a_loss_that_is_not_finite_stops_with_step_and_clips(flags, tmp_path, monkeypatch):
    import training.loop.task

    real, calls = training.loop.task.batch_features, []

    def broken(*arguments, **options):
        features, mask = real(*arguments, **options)
        calls.append(1)
        return (features * math.nan if len(calls) == 7 else features), mask

    monkeypatch.setattr(training.loop.task, "batch_features", broken)
    more = {"trainer.max_steps": "8", "trainer.save_steps": "5", "trainer.eval_strategy": "no"}
    more |= {"trainer.load_best_model_at_end": "false"}
    with pytest.raises(ValueError, match=r"the loss is nan at step 7; clips: \d\d.wav, ") as error:
        fit(load_settings("default", [], flags(tmp_path / "run", **more)))
    assert "\n" not in str(error.value)
    assert [p.name for p in whole_checkpoints(tmp_path / "run" / "checkpoints")] == ["checkpoint-5"]
    trainer = fit(load_settings("default", [], flags(tmp_path / "run", **more)))  # goes on from there
    assert trainer.state.global_step == 8


def test_weights_that_are_not_finite_are_not_saved(flags, tmp_path):
    trainer = fit(load_settings("default", [], flags(tmp_path / "run", **{"trainer.max_steps": "2"})))
    before = whole_checkpoints(tmp_path / "run" / "checkpoints")
    with torch.no_grad():
        trainer.model.head.out.weight[0, 0] = math.inf
    trainer.state.global_step = 3
    with pytest.raises(ValueError, match="not finite after step 3, such as head.out.weight"):
        trainer._save_checkpoint(trainer.model, None)
    assert whole_checkpoints(tmp_path / "run" / "checkpoints") == before


def test_silent_noise_floor_is_no_nan(flags, tmp_path):
    """A clip that is nearly silent trains like any other."""
    for i in range(8):
        write_audio(tmp_path / f"{i}.wav", noise(1.0, seed=i) * (1e-3 if i % 2 else 1.0), 16000)
        (tmp_path / f"{i}.txt").write_text(f"noise {i % 2}")
    more = {"run.data": str(tmp_path), "trainer.max_steps": "2", "trainer.logging_steps": "1"}
    assert all(map(math.isfinite, losses(fit(load_settings("default", [], flags(tmp_path / "run", **more))))))
