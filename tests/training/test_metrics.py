"""Every figure against its closed form or a brute force count, and the encoders that must score at chance."""

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from training.evaluation.metrics import beats_baseline, evaluate_tokens
from training.evaluation.retrieval import retrieval
from training.evaluation.similarity import effective_rank, kardsim_metrics, position_profile, similarity

N, M, T, D = 12, 9, 5, 8
RIGHT = [[i % 7] for i in range(N - 2)] + [[7, 2], [0, 8, 3]]
WAYS = ("a2t", "t2a")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute_query(scores, right):
    """R@1, R@5, R@10 and AP@10 of one query, from its ranking."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    hits = [i in right for i in order]
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(min(10, len(hits))) if hits[i]]
    return [float(any(hits[:k])) for k in (1, 5, 10)] + [sum(precisions) / min(10, len(right))]


def brute(scores, right):
    """Both ways, without ties."""
    clips, captions = scores.shape
    a2t = [brute_query(scores[i].tolist(), set(right[i])) for i in range(clips)]
    back = [{i for i in range(clips) if j in right[i]} for j in range(captions)]
    t2a = [brute_query(scores[:, j].tolist(), back[j]) for j in range(captions) if back[j]]
    names = ("r1", "r5", "r10", "map10")
    return {
        f"{way}_{name}": sum(row[k] for row in rows) / len(rows)
        for way, rows in zip(WAYS, (a2t, t2a), strict=True)
        for k, name in enumerate(names)
    }


def test_kardsim_metrics_by_hand():
    audio, text = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]]), torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    figures = kardsim_metrics(audio, text)
    assert figures == pytest.approx({"cosine": 0.5, "mse": 5 / 4, "euclidean": 5**0.5 / 2})


def test_similarity_is_the_weighted_mean_of_cosines():
    audio, text, weights = draw(N, T, D), draw(M, T, D, seed=1), draw(M, T, seed=2).abs()
    cosine = F.cosine_similarity(audio[:, None], text[None], dim=-1)
    torch.testing.assert_close(similarity(audio, text), cosine.mean(-1))
    expected = (cosine * weights).sum(-1) / weights.sum(-1)
    torch.testing.assert_close(similarity(audio, text, weights=weights, chunk=4), expected)
    torch.testing.assert_close(similarity(audio, text, weights=weights[0]), cosine @ weights[0] / weights[0].sum())
    pooled = F.cosine_similarity(audio[:, None, 0], text[None, :, 0], dim=-1)
    torch.testing.assert_close(similarity(audio[:, 0], text[:, 0]), pooled)


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_as_counted_by_hand(seed):
    scores = draw(N, M, seed=seed)
    assert retrieval(scores, RIGHT) == pytest.approx(brute(scores, RIGHT))
    many = draw(40, 30, seed=seed)
    right = [[i % 25, (i * 7 + 3) % 30] for i in range(40)]
    assert retrieval(many, right, chunk=7) == pytest.approx(brute(many, right))


def test_ties_count_with_the_mean_over_their_orders():
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5, 0.1], [0.2, 0.2, 0.2, 0.7, 0.7]])
    right = [[0, 3], [1, 4]]
    orders = [torch.tensor(order) * 1e-3 for order in permutations(range(5))]
    counted = [[brute_query((scores[i] + order).tolist(), set(right[i])) for order in orders] for i in range(2)]
    expected = torch.tensor(counted, dtype=torch.float64).mean((0, 1)).tolist()
    figures = retrieval(scores, right)
    assert [figures[f"a2t_{name}"] for name in ("r1", "r5", "r10", "map10")] == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 0.37])
def test_a_constant_encoder_scores_at_chance(value):
    clips = captions = 50
    scores = torch.full((clips, captions), value) + 2e-7 * draw(clips, captions).clamp(-2, 2)  # as sums round
    figures = retrieval(scores, [[i] for i in range(clips)])
    for way in WAYS:
        for k in (1, 5, 10):
            assert figures[f"{way}_r{k}"] == pytest.approx(k / 50)
        assert figures[f"{way}_map10"] == pytest.approx(sum(1 / i for i in range(1, 11)) / 50)
    audio, text = draw(1, T, D).expand(clips, -1, -1), draw(captions, T, D, seed=1)
    figures = retrieval(similarity(audio, text, chunk=7), [[i] for i in range(clips)])
    assert figures["t2a_r1"] == pytest.approx(1 / 50) and figures["a2t_r1"] == pytest.approx(1 / 50)


def test_a_random_encoder_scores_near_chance():
    figures = retrieval(similarity(draw(400, T, D), draw(400, T, D, seed=1)), [[i] for i in range(400)])
    for way in WAYS:
        assert abs(figures[f"{way}_r10"] - 10 / 400) < 0.025
        assert figures[f"{way}_r1"] < 0.02


def test_captions_of_no_clip_are_answers_and_no_queries():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.6, 0.2, 0.7]])
    figures = retrieval(scores, [[0], [0]])
    assert figures["a2t_r1"] == 0 and figures["t2a_r1"] == 1 and figures["t2a_map10"] == 1


def test_chunks_change_nothing():
    audio, text = draw(N, T, D), draw(M, T, D, seed=1)
    content = torch.arange(T) <= torch.arange(M)[:, None] % T
    figures = [evaluate_tokens(audio, text, RIGHT, content=content, chunk=chunk) for chunk in (1, 5, 256)]
    assert figures[0] == pytest.approx(figures[2], rel=1e-5) and figures[1] == pytest.approx(figures[2], rel=1e-5)


def test_profile_by_position():
    text = draw(M, T, D)
    scale, turned = torch.arange(1.0, T + 1), text.clone()
    turned[:, 2] = -text[:, 2]
    right = [[i] for i in range(M)]
    profile = position_profile(turned * scale[:, None], text, right)
    torch.testing.assert_close(profile["norm_ratio"], scale)
    torch.testing.assert_close(profile["cosine"], torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0]))


def test_a_clip_with_several_captions_counts_once():
    text = torch.eye(3)[:, None, :].repeat(1, T, 1)
    figures = evaluate_tokens(text[:2], text, [[0, 1, 2], [1]], baselines=False)
    assert figures["cosine"] == pytest.approx((1 / 3 + 1) / 2)


def test_content_figures_leave_the_padding_out():
    text, content = draw(M, T, D), torch.zeros(M, T, dtype=torch.bool)
    content[:, 1:3] = True
    audio = text.clone()
    audio[:, 0] *= -9
    audio[:, 2] *= 3
    figures = evaluate_tokens(audio, text, [[i] for i in range(M)], content=content, baselines=False)
    assert figures["content_cosine"] == pytest.approx(1) and figures["content_norm_ratio"] == pytest.approx(2)
    assert figures["cosine"] == pytest.approx(3 / 5) and figures["norm_ratio"] == pytest.approx((9 + 1 + 3 + 1 + 1) / 5)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (6, 2, 20)])
def test_effective_rank_in_closed_form(shape):
    rows, columns = shape[0], 40 if shape[0] == 6 else 6
    left, right = torch.linalg.qr(draw(rows, 6))[0], torch.linalg.qr(draw(columns, 6, seed=1))[0]
    assert effective_rank((left @ right.T * 5).reshape(shape)) == pytest.approx(6, rel=1e-4)
    values = torch.tensor([4.0, 2.0, 2.0, 0.0, 0.0, 0.0])
    entropy = -(0.5 * torch.tensor(0.5).log() + 0.5 * torch.tensor(0.25).log())
    assert effective_rank((left * values @ right.T).reshape(shape)) == pytest.approx(entropy.exp().item(), rel=1e-2)
    assert effective_rank(torch.ones(shape)) == pytest.approx(1) and effective_rank(torch.zeros(shape)) == 0


def test_evaluation_agrees_with_the_seeds_figures():
    audio, text = draw(N, T, D), draw(N, T, D, seed=1)
    figures = evaluate_tokens(audio, text, [[i] for i in range(N)], baselines=False)
    expected = kardsim_metrics(audio, text)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert not any(name.startswith(("mean_", "noise_", "beats")) for name in figures)


def test_a_perfect_encoder_is_at_the_ceiling():
    text = draw(M, T, D).half()
    right = [[i % M] for i in range(N)]
    audio = text[[r[0] for r in right]].float()
    figures = evaluate_tokens(audio, text, right)
    for name in [name for name in figures if f"ceiling_{name}" in figures]:
        assert figures[name] == pytest.approx(figures[f"ceiling_{name}"]), name
    assert figures["cosine"] == pytest.approx(1) and figures["euclidean"] == 0
    assert figures["a2t_r1"] == figures["t2a_r1"] == figures["a2t_map10"] == figures["t2a_map10"] == 1
    assert figures["beats_floor"] == 1 and beats_baseline(figures) == (True, "")


def test_floors():
    common, clips = draw(1, T, 64, seed=9), 60
    text = common + 0.5 * draw(clips, T, 64, seed=5)
    right = [[i] for i in range(clips)]
    audio = text + 0.3 * draw(clips, T, 64, seed=1)
    figures = evaluate_tokens(audio, text, right)
    mean = text.mean(0).expand(clips, -1, -1)
    expected = kardsim_metrics(mean, text)
    assert {name: figures[f"mean_{name}"] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert figures["mean_t2a_r1"] == pytest.approx(1 / clips) and figures["mean_a2t_r1"] == pytest.approx(1 / clips)
    assert abs(figures["noise_cosine"]) < 0.05 and 0.9 < figures["noise_norm_ratio"] < 1.1
    assert figures["noise_a2t_r1"] < 0.1 and figures["noise_t2a_r1"] < 0.1
    assert figures["shuffled_a2t_r1"] < 0.1 and figures["shuffled_norm_ratio"] == pytest.approx(1.1, abs=0.1)
    assert figures["shuffled_cosine"] < figures["mean_cosine"] < figures["cosine"] < figures["ceiling_cosine"]
    given = evaluate_tokens(audio, text, right, mean_tokens=torch.ones(T, 64))
    assert given["mean_mse"] == pytest.approx(kardsim_metrics(torch.ones_like(text), text)["mse"], rel=1e-4)


def test_an_encoder_below_the_floor_is_told_so():
    text = draw(1, T, D, seed=9) + 0.5 * draw(30, T, D)
    right = [[i] for i in range(30)]
    for audio, lost in (
        (text - text.mean(0), ["cosine"]),  # tells captions apart, in another place of the space
        (text.mean(0).expand(30, -1, -1), ["cosine", "R@1"]),
    ):
        figures = evaluate_tokens(audio, text, right)
        passed, sentence = beats_baseline(figures)
        assert not passed and figures["beats_floor"] == 0 and "mean-prompt baseline" in sentence
        assert [word for word in ("cosine", "R@1") if word in sentence] == lost


def test_another_caption_of_the_same_clip():
    """Clips 0 and 1 have two captions each that say the same; clip 2 has one."""
    text = torch.eye(3).repeat_interleave(2, 0)[:5, None, :].repeat(1, T, 1)
    text = text + 0.01 * draw(5, T, 3)
    right = [[0, 1], [2, 3], [4]]
    figures = evaluate_tokens(text[[0, 2, 4]], text, right)
    assert figures["human_a2t_r1"] == figures["human_t2a_r1"] == 1
    assert 0.99 < figures["human_cosine"] < 1
    torn = evaluate_tokens(text[[0, 2, 4]], text, [[0, 3], [2, 1], [4]])  # the second caption says another thing
    assert torn["human_a2t_r1"] == 0 and torn["human_cosine"] < 0.1
    assert not any(name.startswith("human_") for name in evaluate_tokens(text, text, [[i] for i in range(5)]))


def test_pooled_figures():
    text, pooled = draw(M, T, D), draw(M, D, seed=3)
    right = [[i] for i in range(M)]
    figures = evaluate_tokens(text, text, right, pooled_audio=-2 * pooled, pooled_text=pooled)
    assert figures["pooled_cosine"] == pytest.approx(-1) and figures["pooled_norm_ratio"] == pytest.approx(2)
    assert figures["pooled_a2t_r1"] == 0 and figures["pooled_ceiling_a2t_r1"] == 1 and figures["a2t_r1"] == 1


def test_bad_input():
    audio, text = draw(N, T, D), draw(M, T, D)
    with pytest.raises(ValueError, match="same positions"):
        similarity(audio[:, 1:], text)
    with pytest.raises(ValueError, match="not finite"):
        similarity(audio * torch.nan, text)
    with pytest.raises(ValueError, match="weights"):
        similarity(audio, text, weights=torch.zeros(T))
    with pytest.raises(ValueError, match=r"\[T\] and \[M, T\]"):
        similarity(audio, text, weights=torch.ones(T + 1))
    for right, says in (
        (RIGHT[1:], "as many lists"),
        ([[], *RIGHT[1:]], "clip 0 has no"),
        ([[M], *RIGHT[1:]], "row 9"),
    ):
        with pytest.raises(ValueError, match=says):
            retrieval(draw(N, M), right)
