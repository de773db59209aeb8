"""The first step: views, masks, the loss, resuming, and the time budget."""

from __future__ import annotations

import json

import pytest
import torch

from training.recipes.mini.ear import distil
from training.recipes.mini.ear.slim import read_slim, write_slim
from training.recipes.mini.ear.store import read_audio, read_index
from training.recipes.mini.ear.student import Student, distillation_loss, encoder_config, masked
from training.recipes.mini.ear.teacher import Heard
from training.recipes.mini.ear.views import Views


def test_views_depend_on_the_step_alone_and_are_scaled(store):
    rows = read_index(store)
    one, two = (Views(read_audio(store), rows, seconds=1.0, seed=3) for _ in range(2))
    one.batch(0, 4)
    first, again, other = one.batch(7, 4), two.batch(7, 4), two.batch(8, 4)
    assert torch.equal(first.full, again.full)
    assert not torch.equal(first.full, other.full)
    assert first.full.shape == (4, 2 * first.narrow.shape[1])
    torch.testing.assert_close(first.full.abs().amax(1), torch.full((4,), 0.9))


def test_narrow_view_is_the_full_one_below_8_khz(store):
    batch = Views(read_audio(store), read_index(store), seconds=1.0).batch(1, 2)
    full, narrow = torch.fft.rfft(batch.full), torch.fft.rfft(batch.narrow)
    torch.testing.assert_close(narrow[:, 50:3000].abs() * 2, full[:, 50:3000].abs(), rtol=0.2, atol=5.0)


def test_masks_hide_runs_of_bins_and_frames():
    inputs = torch.ones(64, 50, 160)
    hidden = masked(inputs, torch.Generator().manual_seed(0)) == 0
    assert 0.02 < hidden.float().mean() < 0.4
    assert torch.equal(hidden[:, :, :80], hidden[:, :, 80:])


def test_loss_is_zero_for_what_the_teacher_says():
    logits, frames = torch.randn(3, 527), torch.randn(3, 4, 384)
    heard = Heard(logits, frames.mean(1), frames)
    mean, std = torch.full((384,), 0.5), torch.full((384,), 2.0)
    loss, parts = distillation_loss(logits, (frames - mean) / std, heard, mean, std)
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-4, rtol=0)
    assert parts["cosine"] > 0.999
    worse, _ = distillation_loss(-logits, (frames - mean) / std, heard, mean, std)
    p = logits.sigmoid()
    torch.testing.assert_close(worse, ((2 * p - 1) * logits).sum(1).mean())


def test_student_starts_from_the_teachers_classifier(teacher):
    student = Student(encoder_config(width=64, layers=1), teacher)
    embedding = torch.rand(2, 384)
    torch.testing.assert_close(student.classify(embedding), teacher.classify(embedding))
    logits, guessed = student(torch.randn(2, 20, 160), 3)
    assert logits.shape == (2, 527)
    assert guessed.shape == (2, 3, 384)


def test_a_resumed_run_is_the_same_as_one_that_was_not_stopped(store, teacher, tmp_path):
    settings = distil.Settings(width=64, layers=1, batch=2, seconds=1.0, views=100)
    cpu = torch.device("cpu")
    examples = distil.Examples(store, teacher, settings, cpu)

    def weights(folder, *stops):
        for stop in stops:
            run = distil.Run(folder, settings, teacher, cpu)
            while run.step < stop:
                run.learn(examples(run.step))
            run.save()
        return run.average.state_dict()

    straight, resumed = weights(tmp_path / "a", 4), weights(tmp_path / "b", 2, 4)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in straight.items())
    assert not torch.equal(straight["project.weight"], weights(tmp_path / "c", 2)["project.weight"])


def test_training_stops_at_its_time_and_logs(store, teacher, tmp_path):
    settings = distil.Settings(width=64, layers=1, batch=2, seconds=1.0)
    run = distil.Run(tmp_path, settings, teacher, torch.device("cpu"))
    examples = distil.Examples(store, teacher, settings, torch.device("cpu"))
    ticks = iter(range(0, 10**6, 20))
    distil.train(run, (examples(step) for step in range(99)), minutes=1.0, clock=lambda: next(ticks))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == run.step < 99
    assert {"loss", "kl", "cosine", "views_per_s"} <= set(rows[-1])
    assert distil.Run(tmp_path, settings, teacher, torch.device("cpu")).step == run.step


def test_learning_rate_rises_and_falls():
    assert distil.schedule(0, 100_000) < 0.001
    assert distil.schedule(4_000, 10**9) == pytest.approx(1.0)
    assert distil.schedule(10**6, 10**6) == pytest.approx(0.05)


def test_a_slim_run_goes_on_from_the_average(store, teacher, tmp_path):
    cpu, settings = torch.device("cpu"), distil.Settings(width=64, layers=1, batch=2, seconds=1.0)
    run = distil.Run(tmp_path / "a", settings, teacher, cpu)
    run.learn(distil.Examples(store, teacher, settings, cpu)(0))
    write_slim(run.average, tmp_path / "slim", {"step": run.step, "seen": run.seen})
    other = distil.Run(tmp_path / "b", settings, teacher, cpu)
    other.begin_from(tmp_path / "slim")
    assert (other.step, other.seen) == (1, 2)
    torch.testing.assert_close(other.student.project.weight, run.average.project.weight, atol=1e-3, rtol=1e-3)
    assert distil.schedule(other.seen, 10**6, other.begun) < 1e-3
    with pytest.raises(FileNotFoundError):
        read_slim(tmp_path)


def test_the_command_trains_measures_and_resumes(store, teacher, tmp_path, monkeypatch):
    def inline(store, path, settings, step):
        examples = distil.Examples(store, teacher, settings, torch.device("cpu"))
        return (examples(number) for number in range(step, 100))

    monkeypatch.setattr(distil, "load_teacher", lambda path: teacher)
    monkeypatch.setattr(distil, "produced", inline)
    monkeypatch.setattr(distil, "_STATISTICS", 1)
    sizes = ["--width", "64", "--layers", "1", "--batch", "2", "--seconds", "1", "--judge-minutes", "inf"]
    command = ["--store", str(store), "--teacher", "t", *sizes]
    slim = ["--slim", str(tmp_path / "slim")]
    assert distil.main([*command, "--run", str(tmp_path / "a"), "--views", "4", *slim]) == 0
    assert distil.main([*command, "--run", str(tmp_path / "a"), "--views", "8"]) == 0
    begin = ["--begin", str(tmp_path / "slim")]
    assert distil.main([*command, "--run", str(tmp_path / "b"), "--views", "6", *begin]) == 0
    views = [json.loads((tmp_path / run / "log.jsonl").read_text().splitlines()[-1])["views"] for run in "ab"]
    assert views == [8, 6]
    with pytest.raises(SystemExit):
        distil.main([*command, "--run", str(tmp_path / "c"), "--begin", str(tmp_path / "none")])
