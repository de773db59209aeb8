"""The second step, and the figures of an ear."""

from __future__ import annotations

import pytest
import torch

from audio2img_core import AudioEncoder
from training.recipes.mini.ear import distil, figures
from training.recipes.mini.ear.align import Aligning, caption_of, export, fitted_scale, targets
from training.recipes.mini.ear.measure import accuracy, linear_probe, mean_of_windows
from training.recipes.mini.ear.teacher import Heard, class_names


def example(kinds_of: list[list[int]], level: list[float], logits: torch.Tensor | None = None) -> distil.Example:
    size = len(kinds_of)
    logits = torch.full((size, 527), -9.0) if logits is None else logits
    heard = Heard(logits, torch.zeros(size, 384), torch.zeros(size, 1, 384))
    return distil.Example(torch.zeros(size, 4, 160), heard, torch.tensor(kinds_of), torch.tensor(level))


def test_belief_is_shared_by_labels_loudness_and_the_teacher(captions):
    names = captions.names
    dog, rain = names.index("dog"), names.index("rain")
    logits = torch.full((5, 527), -9.0)
    logits[4, class_names().index("Rain")] = 0.0
    views = example([[dog, -1], [dog, rain], [dog, rain], [-1, -1], [-1, -1]], [0.0, 1.0, 0.1, 0.0, 0.0], logits)
    shares = targets(views, names)
    torch.testing.assert_close(shares.sum(1), torch.ones(5))
    assert shares[0, dog] == 1
    assert shares[1, dog] == shares[1, rain] == 0.5
    assert shares[2, dog] == 1
    torch.testing.assert_close(shares[3], torch.full((len(names),), 1 / len(names)))
    assert shares[4, rain] > 0.5


def test_captions_of_mixtures_are_joined_louder_first(captions):
    texts = [f"k{i}" for i in range(9)]
    said, known = caption_of(example([[1, -1], [1, 2], [1, 2], [1, -1], [-1, 2]], [0.0, 0.5, 2.0, 1.0, 0.1]), texts)
    assert said == ["k1", "k1 and k2", "k2 and k1", "", ""]
    assert known.tolist() == [True, True, True, False, False]


def test_fitted_scale_is_the_one_that_made_the_labels():
    generator = torch.Generator().manual_seed(0)
    cosine = torch.rand(4000, 8, generator=generator)
    places = torch.multinomial((12 * cosine).softmax(1), 1, generator=generator)[:, 0]
    assert fitted_scale(cosine, places) == pytest.approx(12, rel=0.15)


def test_alignment_starts_from_the_distilled_student_and_exports_an_encoder(store, teacher, captions, tmp_path):

    cpu = torch.device("cpu")
    settings = distil.Settings(width=64, layers=1, batch=4, seconds=1.0)
    examples = distil.Examples(store, teacher, settings, cpu)
    first = distil.Run(tmp_path, settings, teacher, cpu)
    first.learn(examples(0))
    first.save()
    run = Aligning(tmp_path, settings, teacher, cpu, start=first.path, captions=captions)
    assert torch.equal(run.student.project.weight, first.average.project.weight)
    before = run.student.encoder.head.out.weight.clone()
    parts = run.learn(examples(0))
    assert {"belief_kl", "tokens", "kl"} <= set(parts)
    assert not torch.equal(before, run.student.encoder.head.out.weight)
    export(run.average, captions, tmp_path / "out", scale=9.0, facts={"licence": "Apache-2.0"})
    encoder = AudioEncoder.from_pretrained(tmp_path / "out")
    assert encoder.encode(torch.rand(16_000) - 0.5, 16_000).tokens.shape == (1, 76, 256)
    assert encoder.logit_scale.exp().item() == pytest.approx(9.0, rel=1e-3)


def test_accuracy_is_the_mean_over_kinds():
    scores = torch.tensor([[2.0, 1, 0], [2, 1, 0], [2, 1, 0], [0, 1, 2]])
    assert accuracy(scores, ["a", "a", "b", "other"], ["a", "b", "c"]) == (0.5, 1.0)


def test_linear_probe_finds_what_is_linear():
    x = torch.randn(60, 5)
    labels = [("a", "b")[int(row[0] > 0)] for row in x]
    scores = linear_probe(x, labels, x, ["a", "b"])
    right = [("a", "b")[i] == label for i, label in zip(scores.argmax(1).tolist(), labels, strict=True)]
    assert sum(right) >= 57


def test_windows_of_a_clip_are_averaged():
    assert mean_of_windows(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1])).tolist() == [[2.0], [5.0]]


def test_calibration_is_perfect_where_belief_is_the_share_that_is_right():
    belief, right = torch.full((10,), 0.7), torch.arange(10) < 7
    assert figures.calibration_error(belief, right) == pytest.approx(0.0, abs=1e-6)
    assert figures.calibration_error(torch.full((10,), 0.95), right) == pytest.approx(0.25)
    assert figures.sure_and_wrong(torch.full((10,), 0.95), right) == pytest.approx(0.3)
    assert figures.sure_and_wrong(belief, right) == 0.0


def test_pairs_are_of_different_kinds_and_both_must_be_found():
    kinds_of = ["a", "a", "b", "c"]
    pairs = figures.drawn_pairs(kinds_of, 20)
    assert len(pairs) == 20
    assert all(kinds_of[one] != kinds_of[two] for one, two in pairs)
    scores = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1]])
    assert figures.both_heard(scores, [(0, 2), (0, 3)]) == 0.5
    one, two = torch.full((10,), 0.1), torch.linspace(-1, 1, 30)
    assert figures.mixed(one, two, 40).abs().max() == pytest.approx(0.9)


def test_worst_kinds_come_first_with_what_they_are_taken_for():
    scores, truth = torch.eye(3)[[0, 1, 1, 0]], ["a", "a", "a", "b"]
    assert list(figures.by_kind(scores, truth, ["a", "b", "c"]).items()) == [("b", 0.0), ("a", pytest.approx(1 / 3))]
    assert figures.taken_for(scores, truth, ["a", "b", "c"], "a") == "b"
