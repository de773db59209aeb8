"""All metrics of an encoder on a split, with baselines and an upper bound beside each.

Shapes and names as in `similarity`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .retrieval import TIE, relevance, retrieval
from .similarity import Positives, check_shapes, effective_rank, pair_tables, similarity

_RANK_ROWS = 512  # clips, evenly spread, that the effective rank is taken over
_NOISE_ROWS = 128  # rows of white noise, used in turn
_NOISE_SEED = 0x6E6F697365  # added, so that the noise is not what a caller draws from the same seed
_EXCLUDED = -2.0  # below every cosine


def evaluate_tokens(
    audio: Tensor,
    text: Tensor,
    positives: Positives,
    *,
    content: Tensor | None = None,
    weights: Tensor | None = None,
    pooled_audio: Tensor | None = None,
    pooled_text: Tensor | None = None,
    mean_tokens: Tensor | None = None,
    mean_pooled: Tensor | None = None,
    baselines: bool = True,
    chunk: int = 256,
    seed: int = 0,
) -> dict[str, float]:
    """Compute all metrics of an encoder on a split, with baselines and an upper bound beside them.

    Args:
        audio: [N, T, D] the encoder's tokens.
        text: [M, T, D] the teacher's tokens of the distinct captions, at the same positions; float16 will do.
        positives: rows of the captions that are correct for each clip.
        content: [M, T] which tokens are no padding, for the `content_` metrics; None = none of those.
        weights: [T] or [M, T] of the positions in retrieval; None = all equal.
        pooled_audio, pooled_text: [N, P] and [M, P], for targets that have a pooled embedding.
        mean_tokens, mean_pooled: [T, D] and [P] the mean prompt, of the training set; None = of `text`.
        baselines: also score the baselines and the upper bound.
        chunk: clips and captions at once.
        seed: of the white noise and of the shuffling.

    Returns:
        `cosine`, `mse`, `euclidean` (`kardsim_metrics`, clip by clip), `norm_ratio`, `content_cosine`,
        `content_norm_ratio` (means over tokens that are no padding), the metrics of `retrieval`, and all of these
        again under each of these prefixes: `noise_`, white noise of the teacher's norms by position; `shuffled_`, the
        encoder's own tokens with another clip's captions; `mean_`, the mean prompt whatever the audio is; `ceiling_`,
        the upper bound, the first correct caption itself; `human_`, where clips have several captions, the second one
        compared with the others, among those clips. `effective_rank` and `ceiling_effective_rank` are those of the
        clips' flattened tokens: 1 for an encoder that gives the same tokens for everything. Pooled metrics have the
        prefix `pooled_`. `beats_floor` is 1.0 or 0.0, the answer of `beats_baseline`.

    Raises:
        ValueError: as `similarity` and `retrieval`.
    """
    metrics = _evaluate(audio, text, positives, content, weights, mean_tokens, baselines, chunk, seed)
    if baselines:
        metrics["beats_floor"] = float(beats_baseline(metrics)[0])
    if pooled_audio is not None and pooled_text is not None:
        pooled = _evaluate(pooled_audio, pooled_text, positives, None, None, mean_pooled, baselines, chunk, seed)
        metrics |= {f"pooled_{name}": value for name, value in pooled.items()}
    return metrics


def beats_baseline(metrics: dict[str, float]) -> tuple[bool, str]:
    """Compare an evaluation with the mean-prompt baseline, in cosine and in R@1 from audio to text.

    Returns:
        (True, "") where it is better in both, else (False, a sentence for people).
    """
    names = {"cosine": "cosine", "a2t_r1": "R@1 from audio to text"}
    lost = [
        f"{label} {metrics[name]:.3f} against {metrics[f'mean_{name}']:.3f}"
        for name, label in names.items()
        if not metrics[name] > metrics[f"mean_{name}"] + TIE
    ]
    if not lost:
        return True, ""
    return False, (
        f"this encoder does not beat the mean-prompt baseline ({', '.join(lost)}): one constant prompt, "
        "the mean of the teacher's, does as well whatever the audio is"
    )


def _evaluate(
    audio: Tensor,
    text: Tensor,
    positives: Positives,
    content: Tensor | None,
    weights: Tensor | None,
    mean: Tensor | None,
    baselines: bool,
    chunk: int,
    seed: int,
) -> dict[str, float]:
    check_shapes(audio, text)
    relevance(positives, len(audio), len(text))
    clips = torch.arange(len(audio))

    def scores_of(rows: Tensor) -> Tensor:
        return similarity(rows, text, weights=weights, chunk=chunk)

    def score(rows: Tensor, index: Tensor, scores: Tensor, answers: Positives = positives) -> dict[str, float]:
        """Of the encoder that says rows[index[i]] of clip i; `scores` are those of the clips with all captions."""
        tables, share, captions = pair_tables(rows, text, index, answers, chunk)
        metrics = {name: (share @ table.double()).mean().item() for name, table in tables.items()}
        if content is not None:
            counted = content[captions].cpu().double() * share[:, None]
            for name in ("cosine", "norm_ratio"):
                metrics[f"content_{name}"] = ((tables[name] * counted).sum() / counted.sum()).item()
        return metrics | retrieval(scores, answers, chunk=chunk)

    def rank(rows: Tensor) -> float:
        return effective_rank(rows[torch.linspace(0, len(rows) - 1, min(len(rows), _RANK_ROWS)).long()])

    own = scores_of(audio)
    metrics = score(audio, clips, own) | {"effective_rank": rank(audio)}
    if not baselines:
        return metrics
    generator = torch.Generator().manual_seed(_NOISE_SEED + seed)
    noise = torch.randn(min(len(audio), _NOISE_ROWS), *text.shape[1:], generator=generator).to(audio.device)
    total, norms = text.new_zeros((), dtype=torch.float64), text.new_zeros((), dtype=torch.float64)
    for part in text.split(chunk):
        total = total + part.double().sum(0)
        norms = norms + part.float().norm(dim=-1, keepdim=True).double().sum(0)
    norms = (norms / len(text)).float().to(audio.device)
    mean = (total / len(text)).float() if mean is None else mean.float()
    order = torch.randperm(len(audio), generator=generator)
    others = torch.empty_like(order)
    others[order] = order.roll(1)  # one cycle: no clip keeps its own place
    # Noise, mean and captions are said of many clips each: their similarities are computed once and repeated.
    turns, constant = clips % len(noise), torch.zeros_like(clips)
    noise, mean = F.normalize(noise, dim=-1) * norms, mean[None].to(audio.device)
    first = torch.tensor([captions[0] for captions in positives])
    used, back = first.unique(return_inverse=True)
    said = {
        "noise": score(noise, turns, scores_of(noise)[turns]),
        "shuffled": score(audio, others, own[others]),
        "mean": score(mean, constant, scores_of(mean)[constant]),
        "ceiling": score(text, first, scores_of(text[used])[back]) | {"effective_rank": rank(text[first])},
    }
    several = [i for i, captions in enumerate(positives) if len(set(captions)) > 1]
    if several:
        second = torch.tensor([next(c for c in positives[i] if c != positives[i][0]) for i in several])
        rest = [[c for c in positives[i] if c != s] for i, s in zip(several, second.tolist(), strict=True)]
        scores = scores_of(text[second])
        scores[torch.arange(len(several)), second] = _EXCLUDED
        said["human"] = score(text, second, scores, rest)
    return metrics | {f"{who}_{name}": value for who, scored in said.items() for name, value in scored.items()}
