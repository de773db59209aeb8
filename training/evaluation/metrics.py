"""How near the audio encoder's tokens are to the teacher's, with the floor and the ceiling beside every figure.

Shapes: N clips, M distinct captions, T positions, D channels. `right[i]` are the rows of the captions that are right
for clip i; several clips may share a caption, and a clip may have several. Leave the BOS token out: a CLIP text
encoder is causal, so it is the same in every caption and lifts every figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RECALL_AT = (1, 5, 10)
MAP_AT = 10
TIE = 1e-6
"""Similarities nearer than this are equal: a sum in another order must not tell a constant encoder's clips apart."""
_RANK_ROWS = 512  # clips, evenly spread, that the effective rank is taken over
_NOISE_ROWS = 128  # rows of white noise, used in turn
_NOISE_SEED = 0x6E6F697365  # added, so that the noise is not what a caller draws from the same seed
_EXCLUDED = -2.0  # below every cosine

Right = Sequence[Sequence[int]]


def seed_metrics(audio: Tensor, text: Tensor) -> dict[str, float]:
    """The three of the seed project (kardSIM/audio2img, train_me.ipynb, `compute_metrics`), as it computes them.

    Args:
        audio, text: [..., D] float, pair by pair.

    Returns:
        `cosine` mean cosine over the last dimension, `mse` mean squared error of all elements, `euclidean` mean
        Euclidean distance over the last dimension.
    """
    return {
        "cosine": torch.cosine_similarity(audio, text, dim=-1).mean().item(),
        "mse": F.mse_loss(audio, text).item(),
        "euclidean": torch.norm(audio - text, dim=-1).mean().item(),
    }


def similarity(audio: Tensor, text: Tensor, *, weights: Tensor | None = None, chunk: int = 256) -> Tensor:
    """Similarity of every clip with every caption: s_ij = sum_t w_jt cos(a_it, t_jt) / sum_t w_jt.

    Computed as one product of normalised, weighted and flattened tokens, `chunk` x `chunk` at a time.

    Args:
        audio: [N, T, D], or [N, D] for pooled embeddings, whose similarity is the plain cosine.
        text: [M, T, D] or [M, D]; float16 will do.
        weights: [T] or [M, T] not negative; None = all 1.
        chunk: rows of either side at once.

    Returns:
        [N, M] float32 on the audio's device.

    Raises:
        ValueError: shapes that do not go together, audio that is not finite, or weights of a caption that sum to 0.
    """
    _check_shapes(audio, text)
    weights = _weights_of(weights, text)
    result = torch.empty(len(audio), len(text), device=audio.device)
    for j in range(0, len(text), chunk):
        captions = F.normalize(text[j : j + chunk].to(audio.device).float(), dim=-1)
        if weights is not None:
            captions = captions * weights[j : j + chunk].to(audio.device)[..., None]
        elif text.ndim == 3:
            captions = captions / text.shape[1]
        captions = captions.flatten(1).T
        for i in range(0, len(audio), chunk):
            clips = F.normalize(audio[i : i + chunk].float(), dim=-1).flatten(1)
            result[i : i + chunk, j : j + chunk] = clips @ captions
    if not result.isfinite().all():
        raise ValueError("the embeddings are not finite: no similarity can be taken")
    return result


def retrieval(scores: Tensor, right: Right, *, chunk: int = 256) -> dict[str, float]:
    """Recall and mean average precision of finding captions by sound and sounds by caption.

    R@k: share of queries with a right answer among the first k. mAP@10: mean over queries of
    sum_{i <= 10} [answer i right] precision@i / min(10, number of right answers). Equal scores (within `TIE`) count
    with their mean over all orders of the tied (McSherry and Najork 2008, "Computing information retrieval
    performance measures efficiently in the presence of tied scores"): a constant encoder scores at chance.

    Args:
        scores: [N, M], as `similarity` gives.
        right: of N clips; captions that are right for none are answers, and no queries.
        chunk: queries ranked at once.

    Returns:
        `a2t_r1`, `a2t_r5`, `a2t_r10`, `a2t_map10` for audio to text, `t2a_...` for text to audio.

    Raises:
        ValueError: a clip without a right caption, or a row that is not in the bank.
    """
    found = _relevance(right, *scores.shape).to(scores.device)
    return {
        f"{way}_{name}": value
        for way, s, r in (("a2t", scores, found), ("t2a", scores.T, found.T))
        for name, value in _rank_queries(s, r, chunk).items()
    }


def position_profile(audio: Tensor, text: Tensor, right: Right, *, chunk: int = 256) -> dict[str, Tensor]:
    """Figures by position: `cosine` [T] mean cosine, `norm_ratio` [T] mean of ||a|| / ||t||; every clip counts once.

    Args as `similarity`'s; a clip with several captions has the mean over them.
    """
    tables, share, _ = _pair_tables(audio, text, torch.arange(len(audio)), right, chunk)
    return {name: (share @ tables[name].double()).float() for name in ("cosine", "norm_ratio")}


def effective_rank(matrix: Tensor) -> float:
    """exp(H(p)), p the singular values divided by their sum (Roy and Vetterli 2007, "The effective rank").

    Args:
        matrix: [n, ...]; each row is flattened. n equal rows give 1, n orthogonal ones of one norm give n.

    Returns:
        Between 1 and min(n, d); 0 for a matrix of zeros.
    """
    rows = matrix.detach().flatten(1).cpu()
    if rows.shape[0] > rows.shape[1]:
        rows = rows.T
    # The Gram matrix of the shorter side, in double precision: its eigenvalues are the squared singular values.
    gram = sum(part @ part.T for part in (columns.double() for columns in rows.split(8192, dim=1)))
    squares = torch.linalg.eigvalsh(gram)
    values = squares.where(squares > squares[-1] * max(rows.shape) * torch.finfo(torch.float64).eps, 0.0).sqrt()
    if not values.any():
        return 0.0
    p = values / values.sum()
    return torch.exp(-torch.xlogy(p, p).sum()).item()


def evaluate_tokens(
    audio: Tensor,
    text: Tensor,
    right: Right,
    *,
    content: Tensor | None = None,
    weights: Tensor | None = None,
    pooled_audio: Tensor | None = None,
    pooled_text: Tensor | None = None,
    mean_tokens: Tensor | None = None,
    mean_pooled: Tensor | None = None,
    floors: bool = True,
    chunk: int = 256,
    seed: int = 0,
) -> dict[str, float]:
    """All figures of an encoder on a split, and what those who hear nothing or everything score beside it.

    Args:
        audio: [N, T, D] the encoder's tokens.
        text: [M, T, D] the teacher's tokens of the distinct captions, at the same positions; float16 will do.
        right: rows of the right captions of each clip.
        content: [M, T] which tokens are no padding, for the `content_` figures; None = none of those.
        weights: [T] or [M, T] of the positions in retrieval; None = all equal.
        pooled_audio, pooled_text: [N, P] and [M, P], for targets that have a pooled embedding.
        mean_tokens, mean_pooled: [T, D] and [P] the mean target, of the training set; None = of `text`.
        floors: also score floors and ceiling.
        chunk: clips and captions at once.
        seed: of the white noise and of the shuffling.

    Returns:
        `cosine`, `mse`, `euclidean` (`seed_metrics`, clip by clip), `norm_ratio`, `content_cosine`,
        `content_norm_ratio` (means over tokens that are no padding), the figures of `retrieval`, and the same once
        more under each of these prefixes:
        `noise_` white noise of the teacher's norms by position; `shuffled_` the encoder's own tokens, each with
        another clip's captions; `mean_` the mean target of each position, whatever is heard; `ceiling_` the first
        right caption itself; `human_` where clips have several captions: the second one, judged by the others, among
        those clips. `effective_rank` and `ceiling_effective_rank` are of the clips' flattened tokens: 1 for an
        encoder that says the same of everything. Pooled figures likewise, under `pooled_`. `beats_floor` is 1.0 or
        0.0, as the function of that name says.

    Raises:
        ValueError: as `similarity` and `retrieval`.
    """
    figures = _evaluate(audio, text, right, content, weights, mean_tokens, floors, chunk, seed)
    if floors:
        figures["beats_floor"] = float(beats_floor(figures)[0])
    if pooled_audio is not None and pooled_text is not None:
        pooled = _evaluate(pooled_audio, pooled_text, right, None, None, mean_pooled, floors, chunk, seed)
        figures |= {f"pooled_{name}": value for name, value in pooled.items()}
    return figures


def beats_floor(figures: dict[str, float]) -> tuple[bool, str]:
    """Whether an evaluation beats the mean target of each position, in cosine and in R@1 from audio to text.

    Returns:
        (True, "") or (False, a sentence for people that says in what it does not).
    """
    names = {"cosine": "cosine", "a2t_r1": "R@1 from audio to text"}
    lost = [
        f"{said} {figures[name]:.3f} against {figures[f'mean_{name}']:.3f}"
        for name, said in names.items()
        if not figures[name] > figures[f"mean_{name}"] + TIE
    ]
    if not lost:
        return True, ""
    return False, (
        f"this encoder does not beat the mean-target floor ({', '.join(lost)}): one constant prompt, the mean of the "
        "teacher's, does as well without hearing anything"
    )


def _evaluate(
    audio: Tensor,
    text: Tensor,
    right: Right,
    content: Tensor | None,
    weights: Tensor | None,
    mean: Tensor | None,
    floors: bool,
    chunk: int,
    seed: int,
) -> dict[str, float]:
    _check_shapes(audio, text)
    _relevance(right, len(audio), len(text))
    clips = torch.arange(len(audio))

    def scores_of(rows: Tensor) -> Tensor:
        return similarity(rows, text, weights=weights, chunk=chunk)

    def score(rows: Tensor, index: Tensor, scores: Tensor, answers: Right = right) -> dict[str, float]:
        """Of the encoder that says rows[index[i]] of clip i; `scores` are those of the clips with all captions."""
        tables, share, captions = _pair_tables(rows, text, index, answers, chunk)
        figures = {name: (share @ table.double()).mean().item() for name, table in tables.items()}
        if content is not None:
            counted = content[captions].cpu().double() * share[:, None]
            for name in ("cosine", "norm_ratio"):
                figures[f"content_{name}"] = ((tables[name] * counted).sum() / counted.sum()).item()
        return figures | retrieval(scores, answers, chunk=chunk)

    def rank(rows: Tensor) -> float:
        return effective_rank(rows[torch.linspace(0, len(rows) - 1, min(len(rows), _RANK_ROWS)).long()])

    own = scores_of(audio)
    figures = score(audio, clips, own) | {"effective_rank": rank(audio)}
    if not floors:
        return figures
    generator = torch.Generator().manual_seed(_NOISE_SEED + seed)
    noise = torch.randn(min(len(audio), _NOISE_ROWS), *text.shape[1:], generator=generator).to(audio.device)
    total, norms = 0.0, 0.0
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
    first = torch.tensor([captions[0] for captions in right])
    used, back = first.unique(return_inverse=True)
    said = {
        "noise": score(noise, turns, scores_of(noise)[turns]),
        "shuffled": score(audio, others, own[others]),
        "mean": score(mean, constant, scores_of(mean)[constant]),
        "ceiling": score(text, first, scores_of(text[used])[back]) | {"effective_rank": rank(text[first])},
    }
    several = [i for i, captions in enumerate(right) if len(set(captions)) > 1]
    if several:
        second = torch.tensor([next(c for c in right[i] if c != right[i][0]) for i in several])
        rest = [[c for c in right[i] if c != s] for i, s in zip(several, second.tolist(), strict=True)]
        scores = scores_of(text[second])
        scores[torch.arange(len(several)), second] = _EXCLUDED
        said["human"] = score(text, second, scores, rest)
    return figures | {f"{who}_{name}": value for who, scored in said.items() for name, value in scored.items()}


def _pair_tables(
    rows: Tensor, text: Tensor, index: Tensor, right: Right, chunk: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Figures of each right pair by position [pairs, T], the pairs' shares in the mean over clips, their captions."""
    pairs = [(i, j, 1 / len(set(captions))) for i, captions in enumerate(right) for j in dict.fromkeys(captions)]
    clips, captions = (torch.tensor([pair[k] for pair in pairs]) for k in (0, 1))
    share = torch.tensor([pair[2] for pair in pairs], dtype=torch.float64) / len(right)
    parts: dict[str, list[Tensor]] = {"cosine": [], "mse": [], "euclidean": [], "norm_ratio": []}
    for first in range(0, len(pairs), chunk):
        a = rows[index[clips[first : first + chunk]]].float()
        t = text[captions[first : first + chunk]].to(a.device).float()
        a, t = (x[:, None] if x.ndim == 2 else x for x in (a, t))
        parts["cosine"].append(torch.cosine_similarity(a, t, dim=-1).cpu())
        parts["mse"].append((a - t).square().mean(-1).cpu())
        parts["euclidean"].append((a - t).norm(dim=-1).cpu())
        parts["norm_ratio"].append((a.norm(dim=-1) / t.norm(dim=-1).clamp(min=1e-8)).cpu())
    return {name: torch.cat(part) for name, part in parts.items()}, share, captions


def _rank_queries(scores: Tensor, found: Tensor, chunk: int) -> dict[str, float]:
    """Expected R@k and AP@10 of the queries (rows) that have a right answer, over random orders of ties."""
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


def _relevance(right: Right, clips: int, captions: int) -> Tensor:
    """[N, M] bool: which caption is right for which clip."""
    if len(right) != clips:
        raise ValueError(f"{clips} clips need as many lists of right captions, not {len(right)}")
    empty = next((i for i, rows in enumerate(right) if not len(rows)), None)
    if empty is not None:
        raise ValueError(f"clip {empty} has no right caption")
    wrong = [row for rows in right for row in rows if not 0 <= row < captions]
    if wrong:
        raise ValueError(f"row {wrong[0]} of a right caption is not in the bank of {captions} captions")
    found = torch.zeros(clips, captions, dtype=torch.bool)
    pairs = torch.tensor([(i, j) for i, rows in enumerate(right) for j in rows])
    found[pairs[:, 0], pairs[:, 1]] = True
    return found


def _check_shapes(audio: Tensor, text: Tensor) -> None:
    if audio.ndim not in (2, 3) or audio.shape[1:] != text.shape[1:] or not len(audio) or not len(text):
        raise ValueError(
            f"audio {list(audio.shape)} and text {list(text.shape)} must be [N, T, D] and [M, T, D], or [N, D] and "
            "[M, D], with the same positions and channels"
        )


def _weights_of(weights: Tensor | None, text: Tensor) -> Tensor | None:
    """[M, T] weights that sum to 1 for each caption."""
    if weights is None:
        return None
    if text.ndim != 3 or weights.shape not in (text.shape[1:2], text.shape[:2]):
        raise ValueError(
            f"weights {list(weights.shape)} do not fit text {list(text.shape)}: allowed are [T] and [M, T]"
        )
    weights = weights.float().expand(text.shape[:2])
    total = weights.sum(1, keepdim=True)
    if (weights < 0).any() or not (total > 0).all():
        raise ValueError("weights must not be negative, and each caption needs one above 0")
    return weights / total
