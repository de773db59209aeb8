"""Losses against their closed forms, the original project's formula and finite differences."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.loss import contrastive
from training.loss.alignment import AlignmentLoss, LossConfig
from training.loss.contrastive import pooled_contrastive, sequence_contrastive, siglip
from training.loss.temperature import LogitScale
from training.loss.tokens import pool_tokens, token_cosine, token_regression

B, T, D, M = 5, 3, 4, 7


def tokens(rows: int = B, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, T, D, dtype=dtype)


def kardsim_loss(audio: torch.Tensor, text: torch.Tensor, temperature: float = 0.15) -> torch.Tensor:
    """The original project's, written out as it stands there."""
    cos = torch.cosine_similarity(audio.unsqueeze(1), text.unsqueeze(0), dim=-1) / temperature
    labels = torch.arange(len(audio))[:, None].repeat(1, audio.shape[1])
    return F.cross_entropy(cos, labels)


def unit(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


# sequence_contrastive


def test_sequence_contrastive_by_hand():
    audio, text = torch.tensor([[unit(0)], [unit(90)]]), torch.tensor([[unit(0)], [unit(60)]])
    # cosines: clip 0 to captions 1 and 1/2, clip 1 to 0 and sqrt(3)/2
    a, b = math.exp(2), math.exp(1)
    c, d = 1.0, math.exp(math.sqrt(3))
    expected = (-math.log(a / (a + b)) - math.log(d / (c + d))) / 2
    assert sequence_contrastive(audio, 3 * text, temperature=0.5).item() == pytest.approx(expected, abs=1e-6)
    back = (-math.log(a / (a + c)) - math.log(d / (b + d))) / 2
    both = sequence_contrastive(audio, text, temperature=0.5, symmetric=True)
    assert both.item() == pytest.approx((expected + back) / 2, abs=1e-6)


@pytest.mark.parametrize("shape", [(8, 47, 64), (1, 3, 4), (16, 1, 32)])
def test_sequence_contrastive_is_the_original_projects(shape):
    audio, text = torch.randn(shape, requires_grad=True), 3 * torch.randn(shape)
    ours, original = sequence_contrastive(audio, text), kardsim_loss(audio, text)
    assert ours.item() == pytest.approx(original.item(), abs=1e-5)
    gradients = [torch.autograd.grad(loss, audio)[0] for loss in (ours, original)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_sequence_contrastive_of_a_zero_token_is_finite():
    audio = torch.zeros(B, T, D, requires_grad=True)
    loss = sequence_contrastive(audio, tokens())
    loss.backward()
    assert loss.item() == pytest.approx(math.log(B), abs=1e-6)
    assert audio.grad.isfinite().all()


def test_symmetric_is_the_mean_of_both_directions():
    audio, text = tokens(), tokens()
    expected = (kardsim_loss(audio, text) + kardsim_loss(text, audio)) / 2
    assert sequence_contrastive(audio, text, symmetric=True).item() == pytest.approx(expected.item(), abs=1e-5)


def test_order_of_the_batch_does_not_matter():
    audio, text, weights, ids = tokens(), tokens(), torch.rand(B, T), torch.tensor([0, 1, 0, 2, 1])
    order = torch.randperm(B)
    one = sequence_contrastive(audio, text, symmetric=True, caption_ids=ids, position_weights=weights)
    other = sequence_contrastive(
        audio[order], text[order], symmetric=True, caption_ids=ids[order], position_weights=weights[order]
    )
    assert one.item() == pytest.approx(other.item(), abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_bank_is_as_more_captions_in_the_softmax(monkeypatch, chunk):
    monkeypatch.setattr(contrastive, "_CHUNK_ELEMENTS", chunk * T * B)
    audio, text, bank = tokens().requires_grad_(), tokens(), tokens(M)
    cos = torch.cosine_similarity(audio.unsqueeze(1), torch.cat([text, bank]).unsqueeze(0), dim=-1) / 0.15
    expected = F.cross_entropy(cos, torch.arange(B)[:, None].repeat(1, T))
    ours = sequence_contrastive(audio, text, bank=bank)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)
    gradients = [torch.autograd.grad(loss, audio)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_bank_is_only_in_the_direction_from_audio_to_text():
    audio, text, bank = tokens(), tokens(), tokens(M)
    expected = (sequence_contrastive(audio, text, bank=bank) + sequence_contrastive(text, audio)) / 2
    both = sequence_contrastive(audio, text, bank=bank, symmetric=True)
    assert both.item() == pytest.approx(expected.item(), abs=1e-6)


def test_bank_has_no_gradient_and_may_be_half_or_empty():
    audio, text, bank = tokens(), tokens(), tokens(M).requires_grad_()
    assert not sequence_contrastive(audio, text, bank=bank).requires_grad
    half = sequence_contrastive(audio, text, bank=bank.half())
    assert half.item() == pytest.approx(sequence_contrastive(audio, text, bank=bank).item(), abs=1e-3)
    assert sequence_contrastive(audio, text, bank=bank[:0]) == sequence_contrastive(audio, text)


def test_repeated_captions_leave_the_softmax():
    """Clips 0 and 2 share a caption: each row's loss is the original's without its twin's column."""
    audio, text = tokens(), tokens()
    text[2] = text[0]
    ids = torch.tensor([4, 1, 4, 2, 3])
    cos = torch.cosine_similarity(audio.unsqueeze(1), text.unsqueeze(0), dim=-1) / 0.15
    rows = []
    for i in range(B):
        keep = [j for j in range(B) if j == i or ids[j] != ids[i]]
        rows.append(F.cross_entropy(cos[i, keep][None], torch.full((1, T), keep.index(i))))
    expected = torch.stack(rows).mean()
    masked = sequence_contrastive(audio, text, caption_ids=ids)
    assert masked.item() == pytest.approx(expected.item(), abs=1e-5)
    assert masked < sequence_contrastive(audio, text)


def test_further_right_captions_are_no_negatives():
    """Clip 0 may be called 0, 3 or 7: neither clip 3's caption nor the bank's 7 count against it; others do."""
    audio, text, bank = tokens(), tokens(), tokens(2)
    ids = torch.tensor([[0, 3, 7], [1, -1, -1], [2, -1, -1], [3, -1, -1], [4, -1, -1]])
    every = torch.cat([text, bank])
    cos = torch.cosine_similarity(audio.unsqueeze(1), every.unsqueeze(0), dim=-1) / 0.15
    rows = [F.cross_entropy(cos[0, [0, 1, 2, 4, 6]][None], torch.zeros(1, T, dtype=torch.long))]
    rows += [F.cross_entropy(cos[i][None], torch.full((1, T), i)) for i in range(1, B)]
    options = {"caption_ids": ids, "bank": bank, "bank_ids": torch.tensor([7, 8])}
    ours = sequence_contrastive(audio, text, **options)
    assert ours.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-5)
    pooled = pooled_contrastive(audio[:, 0], text[:, 0], symmetric=False, caption_ids=ids, temperature=0.15)
    one = sequence_contrastive(audio[:, :1], text[:, :1], caption_ids=ids)
    assert pooled.item() == pytest.approx(one.item(), abs=1e-6)
    positive = torch.eye(B, dtype=torch.bool)
    positive[0, 3] = True
    logits = 2.0 * torch.cosine_similarity(audio[:, None, 0], text[None, :, 0], dim=-1) - 1.0
    expected = F.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none").sum(1).mean()
    judged = siglip(audio[:, 0], text[:, 0], logit_scale=2.0, logit_bias=-1.0, caption_ids=ids)
    assert judged.item() == pytest.approx(expected.item(), abs=1e-5)


def test_unlike_captions_are_not_masked():
    audio, text = tokens(), tokens()
    assert sequence_contrastive(audio, text, caption_ids=torch.arange(B)) == sequence_contrastive(audio, text)


@pytest.mark.parametrize("chunk", [1, 100])
def test_bank_may_hold_the_batchs_own_captions(monkeypatch, chunk):
    """With ids, a bank of the batch's captions and others counts each other caption once more, own ones never."""
    monkeypatch.setattr(contrastive, "_CHUNK_ELEMENTS", chunk * T * B)
    audio, text, others = tokens().requires_grad_(), tokens(), tokens(2)
    ids, other_ids = torch.arange(B), torch.tensor([50, 60])
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either, though the whole bank is masked
        only_own = sequence_contrastive(audio[:1], text[:1], bank=text[:1], caption_ids=ids[:1], bank_ids=ids[:1])
        (gradient,) = torch.autograd.grad(only_own, audio)
    assert only_own.item() == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6

    cos = torch.cosine_similarity(audio.unsqueeze(1), text.unsqueeze(0), dim=-1) / 0.15
    twice = cos + math.log(2) * (1 - torch.eye(B))[..., None]
    expected = F.cross_entropy(twice, ids[:, None].repeat(1, T))
    whole = sequence_contrastive(audio, text, bank=text, caption_ids=ids, bank_ids=ids)
    assert whole.item() == pytest.approx(expected.item(), abs=1e-5)

    bank, bank_ids = torch.cat([text[:1], others]), torch.cat([ids[:1], other_ids])
    masked = sequence_contrastive(audio[:1], text[:1], bank=bank, caption_ids=ids[:1], bank_ids=bank_ids)
    assert masked.item() == pytest.approx(sequence_contrastive(audio[:1], text[:1], bank=others).item(), abs=1e-6)


def test_position_weights_are_a_weighted_mean():
    audio, text = tokens(), tokens()
    cos = torch.cosine_similarity(audio.unsqueeze(1), text.unsqueeze(0), dim=-1) / 0.15
    each = F.cross_entropy(cos, torch.arange(B)[:, None].repeat(1, T), reduction="none")
    weights = torch.rand(B, T)
    expected = (each * weights).sum() / weights.sum()
    ours = sequence_contrastive(audio, text, position_weights=weights)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)
    by_position = sequence_contrastive(audio, text, position_weights=torch.tensor([1.0, 0.0, 3.0]))
    expected = (each[:, 0].mean() + 3 * each[:, 2].mean()) / 4
    assert by_position.item() == pytest.approx(expected.item(), abs=1e-5)
    assert sequence_contrastive(audio, text, position_weights=torch.zeros(T)) == 0


# pooled losses


def test_pooled_contrastive_is_clips():
    audio, text, scale = torch.randn(B, D), torch.randn(B, D), 1 / 0.07
    logits = scale * F.normalize(audio, dim=-1) @ F.normalize(text, dim=-1).T
    labels = torch.arange(B)
    a2t, t2a = F.cross_entropy(logits, labels), F.cross_entropy(logits.T, labels)
    assert pooled_contrastive(audio, text).item() == pytest.approx(((a2t + t2a) / 2).item(), abs=1e-5)
    assert pooled_contrastive(audio, text, symmetric=False).item() == pytest.approx(a2t.item(), abs=1e-5)


def test_pooled_contrastive_with_bank_and_ids():
    audio, text, others = torch.randn(B, D), torch.randn(B, D), torch.randn(M, D)
    ids = torch.arange(B)
    all_but_own = pooled_contrastive(
        audio[:1],
        text[:1],
        symmetric=False,
        bank=torch.cat([text[:1], others]),
        caption_ids=ids[:1],
        bank_ids=torch.arange(M + 1),
    )
    logits = F.cosine_similarity(audio[:1, None], torch.cat([text[:1], others])[None], dim=-1) / 0.07
    assert all_but_own.item() == pytest.approx(F.cross_entropy(logits, torch.tensor([0])).item(), abs=1e-5)


def test_siglip_by_hand():
    audio, text = torch.tensor([unit(0), unit(90)]), torch.tensor([unit(0), unit(60)])
    cosines = [[1.0, 0.5], [0.0, math.sqrt(3) / 2]]

    def expected(signs):
        pairs = [(i, j) for i in range(2) for j in range(2)]
        return sum(math.log1p(math.exp(-signs[i][j] * (4 * cosines[i][j] - 1))) for i, j in pairs) / 2

    loss = siglip(audio, text, logit_scale=4.0, logit_bias=-1.0)
    assert loss.item() == pytest.approx(expected([[1, -1], [-1, 1]]), abs=1e-6)
    repeated = siglip(audio, text, logit_scale=4.0, logit_bias=-1.0, caption_ids=torch.tensor([3, 3]))
    assert repeated.item() == pytest.approx(expected([[1, 1], [1, 1]]), abs=1e-6)


def test_pool_tokens_is_a_weighted_mean():
    x = tokens(2)
    torch.testing.assert_close(pool_tokens(x), x.mean(1))
    torch.testing.assert_close(pool_tokens(x, torch.tensor([1.0, 0.0, 3.0])), (x[:, 0] + 3 * x[:, 2]) / 4)
    own = pool_tokens(x, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(own, torch.stack([x[0, 0], torch.zeros(D)]))


# regression


def test_token_regression_by_hand():
    audio = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])  # norms 5 and 2
    text = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])  # norms 3 and 4, distances 4 and 2
    assert token_regression(audio, text).item() == pytest.approx((16 / 9 + 4 / 16) / 2)
    by_norms = token_regression(audio, text, token_norms=torch.tensor([2.0, 1.0]))
    assert by_norms.item() == pytest.approx((16 / 4 + 4 / 1) / 2)
    weighted = token_regression(audio, text, position_weights=torch.tensor([[1.0, 3.0]]))
    assert weighted.item() == pytest.approx((16 / 9 + 3 * 4 / 16) / 4)
    with_norm = token_regression(audio, text, norm_weight=0.5)
    ratios = (math.log(5 / 3) ** 2 + math.log(2 / 4) ** 2) / 2
    assert with_norm.item() == pytest.approx((16 / 9 + 4 / 16) / 2 + 0.5 * ratios)


def test_token_regression_is_0_at_the_target_and_1_at_silence():
    text = 20 * tokens()
    assert token_regression(text, text, norm_weight=1.0).item() == 0
    assert token_regression(torch.zeros_like(text), text).item() == pytest.approx(1)


def test_token_cosine_by_hand():
    audio, text = torch.tensor([[unit(0), unit(0)]]), torch.tensor([[unit(60), unit(90)]])
    assert token_cosine(audio, 7 * text).item() == pytest.approx((0.5 + 1) / 2)
    assert token_cosine(audio, text, position_weights=torch.tensor([3.0, 1.0])).item() == pytest.approx(2.5 / 4)


# gradients


def gradcheck(loss, *tensors):
    assert torch.autograd.gradcheck(loss, [t.requires_grad_() for t in tensors], eps=1e-6, atol=1e-6)


OPTIONS = {
    "plain": {},
    "symmetric": {"symmetric": True},
    "bank": {"bank": True},
    "ids": {"symmetric": True, "ids": True},
    "bank and ids": {"symmetric": True, "bank": True, "ids": True},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", ["sequence", "pooled"])
def test_contrastive_gradients(monkeypatch, name, kind):
    monkeypatch.setattr(contrastive, "_CHUNK_ELEMENTS", 2 * T * B)
    make = dict(OPTIONS[name])
    shape = (T, D) if kind == "sequence" else (D,)
    audio, text, bank = (torch.randn(rows, *shape, dtype=torch.float64) for rows in (B, B, M))
    options = {"symmetric": make.get("symmetric", False)}
    if kind == "sequence":
        options["position_weights"] = torch.rand(B, T)
    if make.get("bank"):
        options["bank"] = bank
    if make.get("ids"):
        options["caption_ids"] = torch.tensor([0, 1, 0, 2, 3])
        if make.get("bank"):
            options["bank_ids"] = torch.arange(M)
    loss = sequence_contrastive if kind == "sequence" else pooled_contrastive
    temperature = torch.tensor(0.4, dtype=torch.float64)
    gradcheck(lambda a, t, temp: loss(a, t, temperature=temp, **options), audio, text, temperature)


@pytest.mark.parametrize("ids", [None, torch.tensor([0, 1, 0, 2, 3])])
def test_siglip_gradients(ids):
    audio, text = torch.randn(B, D, dtype=torch.float64), torch.randn(B, D, dtype=torch.float64)
    scale, bias = torch.tensor(5.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    gradcheck(lambda a, t, s, b: siglip(a, t, logit_scale=s, logit_bias=b, caption_ids=ids), audio, text, scale, bias)


@pytest.mark.parametrize("norms", [None, torch.tensor([1.0, 2.0, 3.0])])
def test_regression_gradients(norms):
    audio, text = tokens(dtype=torch.float64), tokens(dtype=torch.float64)
    weights = torch.rand(B, T)
    gradcheck(
        lambda a, t: token_regression(a, t, token_norms=norms, position_weights=weights, norm_weight=0.3), audio, text
    )
    gradcheck(lambda a, t: token_cosine(a, t, position_weights=weights), audio, text)


def test_gradients_of_the_whole_sum():
    config = LossConfig(
        sequence=1.0,
        pooled=0.5,
        siglip=0.3,
        regression=0.7,
        cosine=0.2,
        learned_temperature=True,
        symmetric=True,
        bank=True,
        mask_repeated=True,
        padding_weight=0.1,
        norm_weight=0.4,
    )
    loss = AlignmentLoss(config).double()
    options = {
        "text_mask": torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]),
        "caption_ids": torch.tensor([0, 1, 0, 2, 3]),
        "bank": tokens(M),
        "bank_ids": torch.arange(M),
        "token_norms": torch.tensor([1.0, 2.0, 3.0]),
    }
    parameters = dict(loss.named_parameters())
    assert set(parameters) == {"logit_scale.log_scale", "logit_bias"}

    def call(audio, *values):
        swapped = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(loss, swapped, (audio, text), options)["loss"]

    text = tokens(dtype=torch.float64)
    gradcheck(call, tokens(dtype=torch.float64), *(p.detach().clone() for p in parameters.values()))


# memory


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def test_no_tensor_of_all_pairs_and_channels():
    batch, positions, width, rows = 16, 5, 32, 24
    audio = torch.randn(batch, positions, width, requires_grad=True)
    text, bank = torch.randn(batch, positions, width), torch.randn(rows, positions, width)
    pairs = batch * batch * positions * width
    with LargestTensor() as largest:
        kardsim_loss(audio, text).backward()
    assert largest.elements >= pairs  # the original's does make one: the counter works
    with LargestTensor() as largest:
        options = {"caption_ids": torch.arange(batch), "bank": bank, "bank_ids": torch.arange(rows)}
        sequence_contrastive(audio, text, symmetric=True, **options).backward()
    assert largest.elements <= max(bank.numel(), positions * batch * rows)


def test_a_large_bank_is_read_in_chunks(monkeypatch):
    batch, positions, width, rows = 16, 5, 8, 200
    monkeypatch.setattr(contrastive, "_CHUNK_ELEMENTS", 20 * positions * batch)
    audio = torch.randn(batch, positions, width, requires_grad=True)
    bank = torch.randn(rows, positions, width).half()
    with LargestTensor() as largest:
        sequence_contrastive(audio, torch.randn(batch, positions, width), bank=bank).backward()
    assert largest.elements <= 20 * positions * batch


# temperature


def test_logit_scale_starts_at_its_temperature_and_is_clamped():
    assert LogitScale(0.15)().item() == pytest.approx(0.15)
    scale = LogitScale()
    for log_scale, expected in ((10.0, 0.01), (-3.0, 1.0)):
        scale.log_scale.data.fill_(log_scale)
        assert scale().item() == pytest.approx(expected)


@pytest.mark.parametrize("start, toward", [(10.0, 0.5), (-3.0, 0.5), (2.0, 0.001)])
def test_a_learned_temperature_comes_back_and_stays_in_range(start, toward):
    """Gradient descent on (log temperature - log toward)^2 from beyond a bound; with `clamp` it would never move."""
    scale = LogitScale()
    scale.log_scale.data.fill_(start)
    optimizer = torch.optim.SGD(scale.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (scale().log() - math.log(toward)).square().backward()
        optimizer.step()
    assert scale().item() == pytest.approx(max(toward, 0.01), rel=1e-3)
    assert scale.log_scale.item() < math.log(100) + 1  # it was not carried further and further out


def test_a_shared_log_scale_is_learned_by_its_owner():
    owner = torch.nn.Parameter(torch.tensor(2.0), requires_grad=False)  # as the encoder keeps it
    loss = AlignmentLoss(LossConfig(learned_temperature=True), log_scale=owner)
    out = loss(tokens(), tokens())
    out["loss"].backward()
    assert owner.grad.abs() > 0
    assert out["temperature"].item() == pytest.approx(math.exp(-2))
    assert [p is owner for p in loss.parameters()] == [True]


# AlignmentLoss


def test_default_config_is_the_original_projects_loss():
    audio, text = tokens(), tokens()
    out = AlignmentLoss(LossConfig())(audio, text)
    assert out["loss"].item() == pytest.approx(kardsim_loss(audio, text).item(), abs=1e-5)
    assert set(out) == {"loss", "sequence", "temperature"}
    assert not list(AlignmentLoss(LossConfig()).parameters())


def test_parts_add_up_with_their_weights():
    weights = {"sequence": 1.0, "pooled": 2.0, "siglip": 0.25, "regression": 3.0, "cosine": 0.5}
    audio, text = tokens(), tokens()
    out = AlignmentLoss(LossConfig(**weights, temperature=0.2))(audio, text)
    assert out["loss"].item() == pytest.approx(sum(w * out[name].item() for name, w in weights.items()), rel=1e-6)
    pooled = audio.mean(1), text.mean(1)
    alone = {
        "sequence": kardsim_loss(audio, text, 0.2),
        "pooled": pooled_contrastive(*pooled, temperature=0.2, symmetric=False),
        "siglip": siglip(*pooled, logit_scale=5.0, logit_bias=-10.0),
        "regression": token_regression(audio, text),
        "cosine": token_cosine(audio, text),
    }
    for name, value in alone.items():
        assert out[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


ALL_PARTS = {"sequence": 1.0, "pooled": 1.0, "siglip": 1.0, "regression": 1.0, "cosine": 1.0}


def test_padding_weight_0_ignores_what_is_padding_everywhere():
    loss = AlignmentLoss(LossConfig(**ALL_PARTS, padding_weight=0.0, norm_weight=1.0, symmetric=True))
    audio, text, mask = tokens(), tokens(), torch.tensor([[1, 1, 0]]).repeat(B, 1)
    one = loss(audio, text, text_mask=mask)
    audio[:, 2], text[:, 2] = torch.randn(B, D), torch.randn(B, D)
    assert loss(audio, text, text_mask=mask) == one
    short = loss(audio[:, :2], text[:, :2], text_mask=mask[:, :2])
    for name in ALL_PARTS:
        assert short[name].item() == pytest.approx(one[name].item(), rel=1e-5), name


def test_padding_weight_ignores_a_clips_tokens_at_its_own_padding():
    loss = AlignmentLoss(LossConfig(sequence=1.0, regression=1.0, cosine=1.0, padding_weight=0.0))
    audio, text, mask = tokens(), tokens(), torch.ones(B, T)
    mask[0, 1:] = 0
    one = loss(audio, text, text_mask=mask)["loss"]
    audio[0, 1:] = torch.randn(T - 1, D)
    assert loss(audio, text, text_mask=mask)["loss"] == one
    audio[0, 0] = torch.randn(D)
    assert loss(audio, text, text_mask=mask)["loss"] != one


def test_the_pooled_loss_does_not_see_a_clips_own_mask():
    loss = AlignmentLoss(LossConfig(sequence=0.0, pooled=1.0, padding_weight=0.0))
    audio, text, mask = tokens(), tokens(), torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]])
    one, other = (loss(audio, text, text_mask=m)["loss"].item() for m in (mask, mask.roll(1, 0)))
    assert one == pytest.approx(other, rel=1e-6)


def test_pooled_embeddings_are_taken_where_they_are():
    audio, text = torch.randn(B, 6), torch.randn(B, 6)
    bank, bank_pooled = tokens(M), torch.randn(M, 6)
    loss = AlignmentLoss(LossConfig(sequence=0.0, pooled=1.0, bank=True))
    options = {"audio_pooled": audio, "text_pooled": text, "bank": bank}
    expected = pooled_contrastive(audio, text, temperature=0.15, symmetric=False, bank=bank_pooled)
    assert loss(tokens(), tokens(), **options, bank_pooled=bank_pooled)["loss"] == expected
    expected = pooled_contrastive(audio, text, temperature=0.15, symmetric=False)
    assert loss(tokens(), tokens(), **options)["loss"] == expected


def test_tokens_of_the_bank_are_pooled_as_the_batchs():
    loss = AlignmentLoss(LossConfig(sequence=0.0, pooled=1.0, bank=True, padding_weight=0.5))
    audio, text, bank, mask = tokens(), tokens(), tokens(M), torch.tensor([[1, 1, 0]]).repeat(B, 1)
    pooled = [pool_tokens(x, torch.tensor([1.0, 1.0, 0.5])) for x in (audio, text, bank)]
    expected = pooled_contrastive(*pooled[:2], temperature=0.15, symmetric=False, bank=pooled[2])
    assert loss(audio, text, text_mask=mask, bank=bank.half())["loss"].item() == pytest.approx(
        expected.item(), abs=1e-3
    )


def test_what_the_config_switches_off_is_not_used():
    audio, text = tokens(), tokens()
    given = {"caption_ids": torch.zeros(B, dtype=torch.long), "bank": tokens(M), "text_mask": torch.zeros(B, T)}
    assert AlignmentLoss(LossConfig())(audio, text, **given)["loss"] == sequence_contrastive(audio, text)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    audio, text = (30 * torch.randn(B, T, 256).to(dtype) for _ in range(2))
    loss = AlignmentLoss(LossConfig(**ALL_PARTS, norm_weight=1.0, padding_weight=0.5, learned_temperature=True))
    mask = torch.ones(B, T)
    mask[:, 1:] = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss(audio.requires_grad_(), text, text_mask=mask)
    high = loss(audio.detach().float(), text.float(), text_mask=mask)
    for name, value in high.items():
        assert low[name].dtype == torch.float32
        assert low[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6), name
    low["loss"].backward()
    assert audio.grad.dtype == dtype and audio.grad.isfinite().all()


# errors


@pytest.mark.parametrize("field", [f.name for f in fields(LossConfig) if not isinstance(f.default, bool)])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "1e-5", None, True])
def test_config_refuses_what_is_no_weight(field, value):
    with pytest.raises(ValueError, match=f"loss {field} must be"):
        LossConfig(**{field: value})


@pytest.mark.parametrize(
    "values, match",
    [
        ({"sequence": 0}, "all loss weights are 0"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"temperature": 2, "learned_temperature": True}, "within 0.01 and 1"),
        ({"sequence": 0, "cosine": 1, "learned_temperature": True}, "needs sequence, pooled or siglip"),
        ({"sequence": 0, "siglip": 1, "bank": True}, "needs sequence or pooled"),
        ({"symmetric": 1}, "symmetric must be true or false"),
    ],
)
def test_config_refuses_what_does_not_fit(values, match):
    with pytest.raises(ValueError, match=match):
        LossConfig(**values)


@pytest.mark.parametrize(
    "config, missing",
    [
        ({"padding_weight": 0.5}, "text_mask"),
        ({"mask_repeated": True}, "caption_ids"),
        ({"bank": True}, "bank"),
        ({"bank": True, "mask_repeated": True}, "bank_ids"),
    ],
)
def test_what_the_config_needs_must_be_given(config, missing):
    given = {"caption_ids": torch.arange(B), "bank": tokens(M)} if missing == "bank_ids" else {}
    with pytest.raises(ValueError, match=f"the loss needs {missing} "):
        AlignmentLoss(LossConfig(**config))(tokens(), tokens(), **given)


IDS = torch.arange(B)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"temperature": 0}, "temperature must be above 0"),
        ({"temperature": -0.1}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"temperature": torch.ones(1)}, "0-d tensor"),
        ({"bank": torch.randn(M, T, D + 1)}, "bank must have shape"),
        ({"bank_ids": IDS}, "bank_ids without a bank"),
        ({"bank": torch.randn(M, T, D), "caption_ids": IDS}, "go together"),
        ({"bank": torch.randn(M, T, D), "bank_ids": torch.arange(M)}, "go together"),
        ({"bank": torch.randn(M, T, D), "caption_ids": IDS, "bank_ids": IDS}, "bank_ids must be integers"),
        ({"caption_ids": IDS[1:]}, "caption_ids must be integers"),
        ({"caption_ids": IDS.float()}, "caption_ids must be integers"),
        ({"position_weights": torch.ones(B)}, "position_weights must have shape"),
    ],
)
def test_sequence_contrastive_refuses(options, match):
    with pytest.raises(ValueError, match=match):
        sequence_contrastive(tokens(), tokens(), **options)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: sequence_contrastive(tokens(), tokens(B - 1)), "must have the same shape"),
        (lambda: sequence_contrastive(tokens(0), tokens(0)), "are empty"),
        (lambda: sequence_contrastive(torch.ones(B, D), torch.ones(B, D)), r"\[B, T, D\]"),
        (lambda: pooled_contrastive(tokens(), tokens()), r"\[B, P\]"),
        (lambda: pooled_contrastive(torch.ones(B, D), torch.ones(B, D), bank=tokens()), r"bank must be \[M, P\]"),
        (lambda: siglip(tokens(), tokens(), logit_scale=1.0, logit_bias=0.0), r"\[B, P\]"),
        (lambda: token_regression(tokens(), tokens(), token_norms=torch.ones(T + 1)), "token_norms must have shape"),
        (lambda: token_regression(tokens(), tokens(), token_norms=torch.zeros(T)), "must be above 0"),
        (lambda: pool_tokens(torch.ones(B, D)), r"\[B, T, D\]"),
        (lambda: LogitScale(0.0), "within 0.01 and 1"),
        (lambda: AlignmentLoss(LossConfig())(tokens(), tokens(), audio_pooled=torch.ones(B, 2)), "go together"),
        (lambda: AlignmentLoss(LossConfig())(tokens(), tokens(), text_mask=torch.ones(T)), "text_mask must be"),
    ],
)
def test_refuses(call, match):
    with pytest.raises(ValueError, match=match):
        call()
