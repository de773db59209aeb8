"""What was heard, in words: captions ranked by how near the encoder's tokens come to the text encoder's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoder.embeddings import AudioEmbeddings

MAX_CAPTIONS = 1000  # of a call: their prompts take 80 MB for mini, 630 MB for SDXL
MAX_LETTERS = 500  # of a caption; a text encoder reads 77 tokens of it


class Heard(NamedTuple):
    """A caption and its share of the encoder's belief among the captions it was compared with."""

    caption: str
    score: float  # 0..1; the scores of all captions sum to 1


def caption_scores(embeddings: AudioEmbeddings, captions: Tensor) -> Tensor:
    """How well each caption names each clip.

    The softmax over captions of scale * mean over positions of cos(audio token, caption token), the scale being the
    one that the encoder was trained with: the belief that the sequence-level contrastive loss trains, at all positions
    together.

    Args:
        embeddings: of one or more clips; the windows of a clip are averaged.
        captions: [M, 77, D] the text encoder's prompts, BOS included.

    Returns:
        [clips, M] float32, each row sums to 1.

    Raises:
        ValueError: captions of another width, or none.
    """
    tokens = embeddings.averaged().tokens.float()
    first = int(embeddings.space.prepend_bos)
    if captions.ndim != 3 or len(captions) == 0 or captions.shape[2] != tokens.shape[2]:
        raise ValueError(f"captions must be [M, 77, {tokens.shape[2]}], not {list(captions.shape)}")
    count = min(tokens.shape[1], captions.shape[1] - first)
    audio = F.normalize(tokens[:, :count], dim=-1)
    text = F.normalize(captions[:, first : first + count].to(audio), dim=-1)
    cosines = torch.einsum("ctd,mtd->cm", audio, text) / count
    return (embeddings.space.scale * cosines).softmax(-1)


def say_heard(heard: Iterable[Heard]) -> str:
    """ "a piano 81 %, a guitar 7 %, a bell 3 %"."""
    return ", ".join(f"{each.caption} {100 * each.score:.0f} %" for each in heard)


def check_captions(captions: Iterable[str], *, most: int = MAX_CAPTIONS, longest: int = MAX_LETTERS) -> list[str]:
    """The captions as a list.

    Args:
        captions: Texts to choose from.
        most: Number of captions allowed.
        longest: Number of characters allowed in each.

    Raises:
        ValueError: None, too many, or one that is too long.
    """
    captions = list(captions)
    if not captions:
        raise ValueError("name the captions to choose from: only the mini model has some of its own")
    if len(captions) > most:
        raise ValueError(f"captions: at most {most} are compared at once, not {len(captions)}")
    for caption in captions:
        if len(caption) > longest:
            raise ValueError(f"captions: {caption[:20]!r}... has {len(caption)} characters; at most {longest}")
    return captions


def read_captions(text: str) -> list[str]:
    """The captions in a text, a line each; empty lines and doubles are left out.

    Raises:
        ValueError: Fewer than two, for a score needs something to choose from; or as `check_captions`.
    """
    captions = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if len(captions) < 2:
        raise ValueError(f"name at least two captions, one a line, not {len(captions)}")
    return check_captions(captions)


def nearest_captions(scores: Tensor, captions: Sequence[str], *, top: int = 3) -> list[list[Heard]]:
    """The best captions of each clip, best first; `scores` [clips, M] of `caption_scores`."""
    best = scores.topk(min(top, len(captions)), dim=1)
    return [
        [Heard(captions[int(j)], value) for value, j in zip(values, columns, strict=True)]
        for values, columns in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
