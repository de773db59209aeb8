"""Figures of an ear: how often it is right, how honest its belief is, and whether it hears two sounds at once."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

BINS = 15


def calibration_error(belief: Tensor, right: Tensor) -> float:
    """Expected calibration error (Guo et al., arXiv:1706.04599): belief [N] in the first answer, right [N] bool."""
    edges = (belief * BINS).long().clamp(max=BINS - 1)
    error = 0.0
    for bin_ in range(BINS):
        inside = edges == bin_
        if inside.any():
            gap = belief[inside].mean() - right[inside].float().mean()
            error += float(gap.abs() * inside.float().mean())
    return error


def sure_and_wrong(belief: Tensor, right: Tensor, *, sure: float = 0.8) -> float:
    """The share of clips whose first answer is wrong and believed by more than `sure`."""
    return float(((belief > sure) & ~right).float().mean())


def both_heard(scores: Tensor, pairs: list[tuple[int, int]], *, among: int = 3) -> float:
    """The share of pairs of which both kinds are among the first three: scores [N, K], pairs of columns."""
    best = scores.topk(among, dim=1).indices.tolist()
    return sum({one, two} <= set(order) for order, (one, two) in zip(best, pairs, strict=True)) / len(pairs)


def by_kind(scores: Tensor, truth: list[str], names: list[str]) -> dict[str, float]:
    """Top-1 accuracy of each kind, the worst first."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for kind, place in zip(truth, scores.argmax(1).tolist(), strict=True):
        hits[kind].append(names[place] == kind)
    means = {kind: sum(each) / len(each) for kind, each in hits.items()}
    return dict(sorted(means.items(), key=lambda entry: (entry[1], entry[0])))


def taken_for(scores: Tensor, truth: list[str], names: list[str], kind: str) -> str:
    """What a kind is most often taken for when it is not heard right."""
    wrong = [
        names[place]
        for true, place in zip(truth, scores.argmax(1).tolist(), strict=True)
        if true == kind and names[place] != kind
    ]
    return max(sorted(set(wrong)), key=wrong.count) if wrong else ""


def mixed(one: Tensor, two: Tensor, samples: int) -> Tensor:
    """Two sounds at equal loudness, [samples]: the shorter ones repeated, then scaled to a peak of 0.9."""
    parts = []
    for sound in (one, two):
        filled = sound.repeat(-(-samples // len(sound)))[:samples]
        parts.append(filled / filled.square().mean().sqrt().clamp_min(1e-6))
    total = parts[0] + parts[1]
    return total * (0.9 / total.abs().max().clamp_min(1e-6))


def drawn_pairs(kinds: list[str], count: int, seed: int = 0) -> list[tuple[int, int]]:
    """`count` pairs of clips of different kinds; every kind as often as chance has it, whatever its number of clips."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, kind in enumerate(kinds):
        groups[kind].append(number)
    if len(groups) < 2:
        return []
    generator = torch.Generator().manual_seed(seed)
    names, pairs = sorted(groups), []
    for _ in range(count):
        two = torch.randperm(len(names), generator=generator)[:2].tolist()
        pick = [groups[names[i]] for i in two]
        pairs.append(tuple(each[int(torch.randint(len(each), (1,), generator=generator))] for each in pick))
    return pairs
