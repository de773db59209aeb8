"""Recall and precision of finding captions by audio and audio by caption."""

from __future__ import annotations

import torch
from torch import Tensor

from .similarity import Positives

RECALL_AT = (1, 5, 10)
MAP_AT = 10
TIE = 1e-6
"""Similarities nearer than this are equal: a sum in another order must not tell a constant encoder's clips apart."""


def retrieval(scores: Tensor, positives: Positives, *, chunk: int = 256) -> dict[str, float]:
    """Compute recall and mean average precision of finding captions by audio and audio by caption.

    R@k: share of queries with a correct answer among the first k. mAP@10: mean over queries of
    sum_{i <= 10} [answer i correct] precision@i / min(10, number of correct answers). Equal scores (within `TIE`) count
    with their mean over all orders of the tied (McSherry and Najork 2008, "Computing information retrieval
    performance measures efficiently in the presence of tied scores"): a constant encoder scores at chance.

    Args:
        scores: [N, M], as `similarity` gives.
        positives: of N clips; captions that are correct for no clip are answers but no queries.
        chunk: queries ranked at once.

    Returns:
        `a2t_r1`, `a2t_r5`, `a2t_r10`, `a2t_map10` for audio to text, `t2a_...` for text to audio.

    Raises:
        ValueError: a clip without a positive caption, or a row that is no caption.
    """
    found = relevance(positives, *scores.shape).to(scores.device)
    return {
        f"{way}_{name}": value
        for way, s, r in (("a2t", scores, found), ("t2a", scores.T, found.T))
        for name, value in _rank_queries(s, r, chunk).items()
    }


def _rank_queries(scores: Tensor, found: Tensor, chunk: int) -> dict[str, float]:
    """Expected R@k and AP@10 of the queries (rows) that have a correct answer, over random orders of ties."""
    sums = dict.fromkeys([f"r{k}" for k in RECALL_AT] + [f"map{MAP_AT}"], 0.0)
    queries = found.any(1).nonzero().flatten()
    for part in queries.split(chunk):
        s, r = scores[part], found[part]
        best = s.masked_fill(~r, -torch.inf).amax(1, keepdim=True)
        above, tied = (s > best + TIE).sum(1), (s - best).abs() <= TIE
        size, hits = tied.sum(1), (tied & r).sum(1)
        for k in RECALL_AT:
            # No hit among the first k - above of the tied: product of (wrong left) / (left).
            missed = torch.ones(len(part), dtype=torch.float64, device=s.device)
            for i in range(k):
                left = (size - i).clamp(min=1)
                draw = (size - hits - i).clamp(min=0).double() / left
                missed = missed * draw.where((i < k - above) & (i < size), 1.0)
            sums[f"r{k}"] += (1 - missed).sum().item()
        precision = torch.zeros(len(part), dtype=torch.float64, device=s.device)
        for i, value in enumerate(s.topk(min(MAP_AT, s.shape[1]), dim=1).values.T):
            above, tied = s > value[:, None] + TIE, (s - value[:, None]).abs() <= TIE
            size, hits = tied.sum(1).double(), (tied & r).sum(1).double()
            before = (above & r).sum(1) + (i - above.sum(1)) * (hits - 1) / (size - 1).clamp(min=1)
            precision += hits / size * (before + 1) / (i + 1)
        sums[f"map{MAP_AT}"] += (precision / r.sum(1).clamp(max=MAP_AT)).sum().item()
    return {name: value / max(1, len(queries)) for name, value in sums.items()}


def relevance(positives: Positives, clips: int, captions: int) -> Tensor:
    """[N, M] bool: which caption is positives for which clip."""
    if len(positives) != clips:
        raise ValueError(f"{clips} clips need as many lists of positives, not {len(positives)}")
    empty = next((i for i, rows in enumerate(positives) if not len(rows)), None)
    if empty is not None:
        raise ValueError(f"clip {empty} has no positive caption")
    wrong = [row for rows in positives for row in rows if not 0 <= row < captions]
    if wrong:
        raise ValueError(f"row {wrong[0]} of a positive is not among the {captions} captions")
    found = torch.zeros(clips, captions, dtype=torch.bool)
    pairs = torch.tensor([(i, j) for i, rows in enumerate(positives) for j in rows])
    found[pairs[:, 0], pairs[:, 1]] = True
    return found
