"""How near the audio encoder's tokens are to the teacher's, pair by pair.

Shapes: N clips, M distinct captions, T positions, D channels. `positives[i]` are the rows of the captions that are
correct for clip i; several clips may share a caption, and a clip may have several. Leave the BOS token out: a CLIP text
encoder is causal, so the token is the same in every caption and raises every metric.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Positives = Sequence[Sequence[int]]


def kardsim_metrics(audio: Tensor, text: Tensor) -> dict[str, float]:
    """Compute the three metrics of the original project (kardSIM/audio2img, train_me.ipynb, `compute_metrics`).

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
    check_shapes(audio, text)
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


def position_profile(audio: Tensor, text: Tensor, positives: Positives, *, chunk: int = 256) -> dict[str, Tensor]:
    """Figures by position: `cosine` [T] mean cosine, `norm_ratio` [T] mean of ||a|| / ||t||; every clip counts once.

    Args as `similarity`'s; a clip with several captions has the mean over them.
    """
    tables, share, _ = pair_tables(audio, text, torch.arange(len(audio)), positives, chunk)
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


def pair_tables(
    rows: Tensor, text: Tensor, index: Tensor, positives: Positives, chunk: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return metrics of each positive pair by position [pairs, T], the pairs' shares in the mean, their captions."""
    pairs = [(i, j, 1 / len(set(captions))) for i, captions in enumerate(positives) for j in dict.fromkeys(captions)]
    clips, captions = (torch.tensor([pair[k] for pair in pairs]) for k in (0, 1))
    share = torch.tensor([pair[2] for pair in pairs], dtype=torch.float64) / len(positives)
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


def check_shapes(audio: Tensor, text: Tensor) -> None:
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
