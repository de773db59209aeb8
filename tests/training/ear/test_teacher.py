"""The teacher: mn04's shapes, folded batch norms, its front end, and what the real one hears."""

from __future__ import annotations

import os

import pytest
import torch

from audio2img_core import load_audio
from training.recipes.mini.ear.kinds import canonical, kinds, usual_logits, votes
from training.recipes.mini.ear.splits import UNKNOWN_KINDS
from training.recipes.mini.ear.teacher import RATE, Teacher, class_names, load_teacher, teacher_mel


def test_teacher_has_mn04s_size_and_shapes(teacher, weights):
    heard = teacher(torch.randn(2, RATE))
    assert heard.logits.shape == (2, 527)
    assert heard.frames.shape == (2, 4, 384)
    torch.testing.assert_close(heard.embedding, heard.frames.mean(1))
    # 983,599 with batch norms that have two numbers a channel more than a bias.
    assert sum(tensor.numel() for name, tensor in weights.items() if "running" not in name) == 983_599


def test_teacher_refuses_weights_that_lack_a_tensor_or_have_one_more(weights):
    with pytest.raises(ValueError, match="unknown tensors: more"):
        Teacher({**weights, "more": torch.zeros(1)})
    del weights["features.9.block.1.1.bias"]
    with pytest.raises(ValueError, match="lack"):
        Teacher(weights)


def test_folded_batch_norm_is_batch_norm(teacher, weights):
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


def test_what_is_heard_everywhere_is_taken_off():
    logits = torch.full((3, 527), -6.0)
    music, bark = class_names().index("Music"), class_names().index("Bark")
    logits[:, music], logits[0, bark] = 2.0, 1.0
    names = ["band", "dog"]
    assert votes(logits, names).argmax(1).tolist() == [0, 0, 0]
    assert votes(logits, names, offset=usual_logits(logits)).argmax(1).tolist()[0] == 1
