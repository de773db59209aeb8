"""The recipe of mini's ear: the teacher, the store, the splits, the views and the distillation, on tiny made sounds."""

from __future__ import annotations

import json
import os

import pytest
import torch

from training.flac import write_flac
from training.recipes.mini.ear import distil
from training.recipes.mini.ear.build import add_folder, freesound_ids
from training.recipes.mini.ear.kinds import canonical, kinds, votes
from training.recipes.mini.ear.licences import permissive
from training.recipes.mini.ear.measure import accuracy, linear_probe, mean_of_windows
from training.recipes.mini.ear.splits import UNKNOWN_KINDS, assign_splits
from training.recipes.mini.ear.store import StoreWriter, loud_starts, read_audio, read_index, write_index
from training.recipes.mini.ear.student import Student, distillation_loss, encoder_config, masked
from training.recipes.mini.ear.teacher import RATE, Heard, Teacher, class_names, load_teacher, teacher_mel
from training.recipes.mini.ear.views import Views

# kernel, expanded, out channels and squeeze (0 = none) of mn04's 15 blocks, after 8 channels of the stem.
BLOCKS = (
    *((3, 8, 8, 0), (3, 24, 16, 0), (3, 32, 16, 0), (5, 32, 16, 8), (5, 48, 16, 16), (5, 48, 16, 16)),
    *((3, 96, 32, 0), (3, 80, 32, 0), (3, 72, 32, 0), (3, 72, 32, 0), (3, 192, 48, 48), (3, 272, 48, 72)),
    *((5, 272, 64, 72), (5, 384, 64, 96), (5, 384, 64, 96)),
)


def random_weights() -> dict[str, torch.Tensor]:
    """Tensors of mn04's names and shapes."""
    generator = torch.Generator().manual_seed(1)
    weights = {}

    def conv(name: str, *shape: int) -> None:
        scale = (shape[1] * shape[2] * shape[3]) ** -0.5
        weights[f"{name}.0.weight"] = torch.randn(shape, generator=generator) * scale
        for part in ("weight", "running_var"):
            weights[f"{name}.1.{part}"] = torch.rand(shape[0], generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            weights[f"{name}.1.{part}"] = torch.randn(shape[0], generator=generator) * 0.1

    def linear(name: str, out: int, inner: int) -> None:
        weights[f"{name}.weight"] = torch.randn(out, inner, generator=generator) * inner**-0.5
        weights[f"{name}.bias"] = torch.zeros(out)

    conv("features.0", 8, 1, 3, 3)
    inner = 8
    for i, (kernel, expanded, out, squeeze) in enumerate(BLOCKS, 1):
        part = 0
        if expanded != inner:
            conv(f"features.{i}.block.0", expanded, inner, 1, 1)
            part = 1
        conv(f"features.{i}.block.{part}", expanded, 1, kernel, kernel)
        if squeeze:
            part += 1
            linear(f"features.{i}.block.{part}.conc_se_layers.0.fc1", squeeze, expanded)
            linear(f"features.{i}.block.{part}.conc_se_layers.0.fc2", expanded, squeeze)
        conv(f"features.{i}.block.{part + 1}", out, expanded, 1, 1)
        inner = out
    conv("features.16", 384, 64, 1, 1)
    linear("classifier.2", 512, 384)
    linear("classifier.5", 527, 512)
    return weights


@pytest.fixture(scope="module")
def teacher():
    return Teacher(random_weights())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Eight sounds of 1 to 6 s, of two kinds and unlabelled, all in the training split."""
    folder = tmp_path_factory.mktemp("store")
    writer = StoreWriter(folder)
    generator = torch.Generator().manual_seed(0)
    for i in range(8):
        sound = torch.randn(RATE * (1 + 5 * (i % 2)), generator=generator)
        kind = ("dog", "rain", None)[i % 3]
        writer.add(sound, {"id": f"{i}", "kind": kind, "source": f"s{i}", "licence": "CC0", "split": "train"})
    return folder


def test_teacher_has_mn04s_size_and_shapes(teacher):
    heard = teacher(torch.randn(2, RATE))
    assert heard.logits.shape == (2, 527)
    assert heard.frames.shape == (2, 4, 384)
    torch.testing.assert_close(heard.embedding, heard.frames.mean(1))
    # 983,599 with batch norms that have two numbers a channel more than a bias.
    assert sum(tensor.numel() for name, tensor in random_weights().items() if "running" not in name) == 983_599


def test_teacher_refuses_weights_that_lack_a_tensor_or_have_one_more():
    weights = random_weights()
    with pytest.raises(ValueError, match="unknown tensors: more"):
        Teacher({**weights, "more": torch.zeros(1)})
    del weights["features.9.block.1.1.bias"]
    with pytest.raises(ValueError, match="lack"):
        Teacher(weights)


def test_folded_batch_norm_is_batch_norm(teacher):
    weights = random_weights()
    x = torch.randn(1, 1, 16, 16)
    plain = torch.nn.functional.conv2d(x, weights["features.0.0.weight"], stride=2, padding=1)
    names = ("running_mean", "running_var", "weight", "bias")
    plain = torch.nn.functional.batch_norm(plain, *(weights[f"features.0.1.{name}"] for name in names), eps=1e-3)
    torch.testing.assert_close(teacher.stem(x), plain, atol=1e-5, rtol=1e-4)


def test_teacher_mel_is_that_of_a_centred_stft():
    sound = torch.randn(1, 9600)
    emphasised = sound[:, 1:] - 0.97 * sound[:, :-1]
    window = torch.hann_window(800, periodic=False)
    power = torch.stft(emphasised, 1024, 320, 800, window, return_complex=True).abs().square()
    mel = teacher_mel(sound)
    assert mel.shape == (1, 128, power.shape[2])
    # The triangles sum to one between the first and the last centre: the powers of all bands sum to the spectrum's.
    summed = ((5 * mel - 4.5).exp() - 1e-5).sum(1)
    torch.testing.assert_close(summed, power[:, 2:478].sum(1), atol=0.0, rtol=0.06)


def test_a_teacher_of_another_content_is_refused(tmp_path):
    path = tmp_path / "mn04.safetensors"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="sha256"):
        load_teacher(path)
    with pytest.raises(FileNotFoundError):
        load_teacher(tmp_path / "none.safetensors")


@pytest.mark.skipif("AUDIO2IMG_TEACHER" not in os.environ, reason="needs mn04.safetensors: set AUDIO2IMG_TEACHER")
def test_the_real_teacher_names_what_it_hears():
    from audio2img_core import load_audio

    real, names = load_teacher(os.environ["AUDIO2IMG_TEACHER"]), class_names()

    def best(waveform: torch.Tensor) -> list[str]:
        scaled = waveform * (0.9 / waveform.abs().max())
        return [names[i] for i in real(scaled).logits[0].topk(5).indices.tolist()]

    tone = torch.sin(torch.arange(4 * RATE) * (440 * 2 * torch.pi / RATE))[None]
    assert best(tone)[0] == "Sine wave"
    assert real(0.9 * tone).logits[0, names.index("Speech")].sigmoid() < 0.1
    for name, wanted in (("piano", {"Piano", "Music"}), ("rain", {"Rain on surface"})):
        waveform, _ = load_audio(f"examples/{name}.flac", sample_rate=RATE)
        assert wanted <= set(best(waveform.mean(0, keepdim=True)))


def test_store_keeps_what_was_added_and_drops_what_was_not_finished(tmp_path):
    writer = StoreWriter(tmp_path)
    assert writer.add(torch.tensor([0.1, -0.2, 0.0]), {"id": "a"})
    assert not writer.add(torch.tensor([0.1]), {"id": "a"})
    assert not writer.add(torch.zeros(9), {"id": "silent"})
    with (tmp_path / "audio.i16").open("ab") as file:
        file.write(b"half a clip!")
    with (tmp_path / "index.jsonl").open("a") as file:
        file.write('{"id": "b", "st')
    writer = StoreWriter(tmp_path)
    assert writer.add(torch.ones(2), {"id": "b"})
    assert [(row["id"], row["start"], row["samples"]) for row in read_index(tmp_path)] == [("a", 0, 3), ("b", 3, 2)]
    peak = round(0.9 * 32767)
    assert read_audio(tmp_path).tolist() == [round(peak / 2), -peak, 0, peak, peak]


def test_crops_start_where_it_is_not_quiet():
    audio = torch.zeros(4 * RATE, dtype=torch.int16)
    audio[3 * RATE :] = 1000
    (starts,) = loud_starts(audio, [{"start": 0, "samples": len(audio)}], 1.0)
    assert starts.min() > 2 * RATE
    assert starts.max() <= 3 * RATE


def test_folder_is_read_with_its_kinds_and_without_excluded_ids(tmp_path):
    rows = []
    for name, source in (("a", "freesound:123456"), ("b", "x:1"), ("c", "y")):
        write_flac(tmp_path / f"{name}.flac", torch.rand(16_000) - 0.5)
        rows.append({"audio": f"{name}.flac", "kind": "dog", "licence": "CC0", "source": source, "path": f"{name}.wav"})
    (tmp_path / "sounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    writer = StoreWriter(tmp_path / "store")
    assert add_folder(writer, tmp_path, excluded={123456}) == 2
    assert [row["source"] for row in writer.rows] == ["x:1", "y"]
    assert add_folder(writer, tmp_path, excluded={123456}) == 0
    assert freesound_ids({"source": "a", "path": "x/27353__junggle.wav"}) == [27353]


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [("CC0", 1), ("CC BY 3.0", 1), ("CC-BY-4.0", 1), ("MIT (repo); NOAA", 1), ("Public domain (NPS)", 1)]
    + [("CC BY-SA 3.0", 0), ("CC-BY-NC", 0), ("GPL-3.0-or-later", 0), ("ODbL+DbCL", 0), ("ODC-BY 1.0", 0), ("?", 0)],
)
def test_only_permissive_licences_are_trained_on(licence, allowed):
    assert permissive({"licence": licence, "source": "s"}) == bool(allowed)


def test_splits_keep_sources_apart_and_hold_kinds_out():
    rows = [
        {"kind": kind, "source": f"{kind}{i}", "licence": "CC0"}
        for kind in ("dog", "rain")
        for i in range(9)
        for _ in "ab"
    ]
    rows += [{"kind": "cow", "source": "one", "licence": "CC0"}, {"kind": "cow", "source": "sa", "licence": "GPL-2.0"}]
    rows += [{"kind": UNKNOWN_KINDS[0], "source": "dog0", "licence": "CC0"}]
    rows += [{"kind": None, "source": "judge", "licence": "CC0"}]
    assign_splits(rows, judge_sources=["judge", "dog3"])
    of: dict[str, set[str]] = {}
    for row in rows:
        if row["kind"] in ("dog", "rain", "cow"):
            of.setdefault(row["source"], set()).add(row["split"])
    assert all(len(each) == 1 for each in of.values())
    assert of["dog3"] == of["sa"] == {"test"}
    assert of["one"] == {"train"}
    for kind in ("dog", "rain"):
        splits = [row["split"] for row in rows if row["kind"] == kind]
        assert {split: splits.count(split) for split in set(splits)} == {"train": 12, "valid": 2, "test": 4}
    assert rows[-2]["split"] == "unknown"
    assert rows[-1]["split"] == "unused"


def test_table_of_kinds_is_large_and_consistent():
    table = kinds()
    assert sum(len(kind.says) >= 2 for kind in table.values()) >= 120
    assert len({kind.says[0] for kind in table.values()}) == len(table)
    assert canonical()["thunderstorm"] == "thunder"
    assert not set(UNKNOWN_KINDS) & set(canonical())


def test_votes_take_the_best_class_of_a_kind():
    logits = torch.full((1, 527), -9.0)
    logits[0, class_names().index("Bark")] = 2.0
    assert votes(logits, ["rain", "dog", "washing machine"]).tolist() == [[-9.0, 2.0, -torch.inf]]


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
    assert distil.schedule(8_000, 10**9) == pytest.approx(1.0)
    assert distil.schedule(10**6, 10**6) == pytest.approx(0.05)


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


def test_index_is_replaced_at_once(tmp_path):
    write_index(tmp_path, [{"id": "x", "start": 0, "samples": 1}])
    assert read_index(tmp_path)[0]["id"] == "x"
    assert not list(tmp_path.glob("*.part"))


def test_a_packed_store_comes_back_nearly_the_same(tmp_path):
    pytest.importorskip("soundfile")
    from training.recipes.mini.ear import pack

    writer = StoreWriter(tmp_path / "here")
    time = torch.arange(RATE) / RATE
    for i, hz in enumerate((300, 440, 1000)):
        sound = torch.sin(2 * torch.pi * hz * time) * torch.linspace(0, 1, RATE)
        writer.add(sound, {"id": f"{i}", "kind": None, "source": "s", "licence": "CC0", "split": "train"})
    parts = pack.pack(tmp_path / "here", tmp_path / "parts", seconds=0.9)
    assert [part.name for part in parts] == ["part-0"]
    assert pack.unpack(parts, tmp_path / "there") == 3
    before, after = read_index(tmp_path / "here"), read_index(tmp_path / "there")
    for old, new in zip(before, after, strict=True):
        assert (new["id"], new["split"], new["samples"]) == (old["id"], "train", round(0.9 * RATE))
        one = read_audio(tmp_path / "here")[old["start"] :][: new["samples"]].float()
        two = read_audio(tmp_path / "there")[new["start"] :][: new["samples"]].float()
        assert torch.cosine_similarity(one, two, dim=0) > 0.99


@pytest.fixture(scope="module")
def captions():
    from audio2img_core import mini
    from training.recipes.mini.ear.align import Captions

    return Captions(mini.FOLDER / "diffusion", torch.device("cpu"))


def example(kinds_of: list[list[int]], level: list[float], logits: torch.Tensor | None = None) -> distil.Example:
    size = len(kinds_of)
    logits = torch.full((size, 527), -9.0) if logits is None else logits
    heard = Heard(logits, torch.zeros(size, 384), torch.zeros(size, 1, 384))
    return distil.Example(torch.zeros(size, 4, 160), heard, torch.tensor(kinds_of), torch.tensor(level))


def test_belief_is_shared_by_labels_loudness_and_the_teacher(captions):
    from training.recipes.mini.ear.align import targets

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
    from training.recipes.mini.ear.align import caption_of

    texts = [f"k{i}" for i in range(9)]
    said, known = caption_of(example([[1, -1], [1, 2], [1, 2], [1, -1], [-1, 2]], [0.0, 0.5, 2.0, 1.0, 0.1]), texts)
    assert said == ["k1", "k1 and k2", "k2 and k1", "", ""]
    assert known.tolist() == [True, True, True, False, False]


def test_fitted_scale_is_the_one_that_made_the_labels():
    from training.recipes.mini.ear.align import fitted_scale

    generator = torch.Generator().manual_seed(0)
    cosine = torch.rand(4000, 8, generator=generator)
    places = torch.multinomial((12 * cosine).softmax(1), 1, generator=generator)[:, 0]
    assert fitted_scale(cosine, places) == pytest.approx(12, rel=0.15)


def test_alignment_starts_from_the_distilled_student_and_exports_an_encoder(store, teacher, captions, tmp_path):
    from audio2img_core import AudioEncoder
    from training.recipes.mini.ear.align import Aligning, export

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


def test_calibration_is_perfect_where_belief_is_the_share_that_is_right():
    from training.recipes.mini.ear import figures

    belief, right = torch.full((10,), 0.7), torch.arange(10) < 7
    assert figures.calibration_error(belief, right) == pytest.approx(0.0, abs=1e-6)
    assert figures.calibration_error(torch.full((10,), 0.95), right) == pytest.approx(0.25)
    assert figures.sure_and_wrong(torch.full((10,), 0.95), right) == pytest.approx(0.3)
    assert figures.sure_and_wrong(belief, right) == 0.0


def test_pairs_are_of_different_kinds_and_both_must_be_found():
    from training.recipes.mini.ear import figures

    kinds_of = ["a", "a", "b", "c"]
    pairs = figures.drawn_pairs(kinds_of, 20)
    assert len(pairs) == 20
    assert all(kinds_of[one] != kinds_of[two] for one, two in pairs)
    scores = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1]])
    assert figures.both_heard(scores, [(0, 2), (0, 3)]) == 0.5
    one, two = torch.full((10,), 0.1), torch.linspace(-1, 1, 30)
    assert figures.mixed(one, two, 40).abs().max() == pytest.approx(0.9)


def test_worst_kinds_come_first_with_what_they_are_taken_for():
    from training.recipes.mini.ear import figures

    scores, truth = torch.eye(3)[[0, 1, 1, 0]], ["a", "a", "a", "b"]
    assert list(figures.by_kind(scores, truth, ["a", "b", "c"]).items()) == [("b", 0.0), ("a", pytest.approx(1 / 3))]
    assert figures.taken_for(scores, truth, ["a", "b", "c"], "a") == "b"


def test_originals_are_fetched_by_commit_and_path(tmp_path):
    import subprocess

    from training.recipes.mini.ear.manifest import fetch, read_manifest, write_manifest

    origin = tmp_path / "host" / "someone" / "sounds"
    origin.mkdir(parents=True)
    (origin / "a b.wav").write_bytes(b"one")
    (origin / "c.wav").write_bytes(b"two")

    def git(*words: str) -> str:
        names = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        done = subprocess.run(["git", "-C", str(origin), *names, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "Add sounds")
    commit = git("rev-parse", "HEAD")
    common = {"repository": "someone/sounds", "commit": commit, "licence": "CC0", "split": "train"}
    rows = [{**common, "path": "a b.wav", "kind": kind, "source": "s"} for kind in (None, "dog")]
    rows += [{**common, "path": "gone.wav", "kind": "cat", "source": "t"}, {"path": "x", "package": "debian"}]
    assert write_manifest(rows, tmp_path) == 2
    manifest = read_manifest(tmp_path)
    assert [(row["path"], row["kind"], row["commit"]) for row in manifest] == [
        ("a b.wav", "dog", commit),
        ("gone.wav", "cat", commit),
    ]
    (tmp_path / "out").mkdir()
    kept = fetch(tmp_path / "out", host=(tmp_path / "host").as_uri(), rows=manifest[:1])
    assert (tmp_path / "out" / kept[0]["audio"]).read_bytes() == b"one"
    assert not list((tmp_path / "out").rglob("c.wav"))
    assert fetch(tmp_path / "out", host="nowhere", rows=manifest[:1]) == kept


def test_committed_manifest_trains_on_permissive_licences_alone():
    from training.recipes.mini.ear.manifest import read_manifest

    rows = read_manifest()
    trained = [row for row in rows if row["split"] in ("train", "valid")]
    assert len(trained) > 2000
    assert all(permissive(row) for row in trained)
    judged = {row["source"] for row in rows if row["split"] == "test"}
    assert not judged & {row["source"] for row in trained}
    assert not set(UNKNOWN_KINDS) & {row["kind"] for row in trained}


def test_a_slim_run_goes_on_from_the_average(store, teacher, tmp_path):
    from training.recipes.mini.ear.slim import read_slim, write_slim

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


def test_credits_name_what_was_trained_on_and_refuse_what_must_not_be():
    from training.recipes.mini.ear.credits import credits_of

    row = {"id": "1", "repository": "a/b", "commit": "0" * 40, "licence": "CC BY 3.0", "source": "s", "path": "x.ogg"}
    text = credits_of([{**row, "split": "train"}, {**row, "split": "test", "source": "judge"}])
    assert "## a/b 000000000000" in text
    assert "- s: x.ogg" in text
    assert "judge" not in text
    with pytest.raises(ValueError, match="GPL-2.0"):
        credits_of([{**row, "split": "train", "licence": "GPL-2.0"}])
