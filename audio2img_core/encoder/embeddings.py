"""What an encoder hears in a sound: tokens in a text encoder's space."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSpace:
    """The text-encoder space that tokens live in, as far as the checkpoint carries it."""

    target: str  # a name of the table in targets.py
    prepend_bos: bool = True  # the prompt starts with the teacher's BOS token, the encoder's tokens follow
    null_tokens: Tensor | None = None  # [77, D] the teacher's empty prompt, None where the checkpoint has none
    null_pooled: Tensor | None = None  # [P] its pooled embedding, None where the target has none
    scale: float = 1 / 0.15  # of cosines, that the encoder was trained with: the inverse of its temperature

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TokenSpace:
        """The same on another device or in another dtype."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device=device, dtype=dtype)

        return replace(self, null_tokens=move(self.null_tokens), null_pooled=move(self.null_pooled))


@dataclass(frozen=True)
class AudioEmbeddings:
    """Tokens of one or more clips. A clip longer than the encoder's window has one row for each of its windows."""

    tokens: Tensor  # [B, N, D] float, B windows, without the teacher's BOS token
    pooled: Tensor | None  # [B, P] float, None where the target has none
    clips: tuple[int, ...]  # [B] the clip each window belongs to: 0, 0, 1, ...
    starts: tuple[float, ...]  # [B] seconds
    durations: tuple[float, ...]  # [B] seconds of sound in the window
    space: TokenSpace

    def __post_init__(self) -> None:
        rows = {len(self.tokens), len(self.clips), len(self.starts), len(self.durations)}
        if self.tokens.ndim != 3 or len(rows) != 1:
            raise ValueError(f"embeddings need tokens [B, N, D] and B clips, starts and durations: {rows}")

    @property
    def num_clips(self) -> int:
        """Number of different clips."""
        return len(set(self.clips))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> AudioEmbeddings:
        """The same on another device or in another dtype."""
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        tokens = self.tokens.to(device=device, dtype=dtype)
        return replace(self, tokens=tokens, pooled=pooled, space=self.space.to(device, dtype))

    def rows(self, first: int, last: int) -> AudioEmbeddings:
        """Return the windows from `first` to `last` (exclusive); each keeps the number of its clip."""
        part = slice(first, last)
        return replace(
            self,
            tokens=self.tokens[part],
            pooled=None if self.pooled is None else self.pooled[part],
            clips=self.clips[part],
            starts=self.starts[part],
            durations=self.durations[part],
        )

    def averaged(self) -> AudioEmbeddings:
        """Return one row for each clip: the mean of its windows, weighted by their durations.

        Clips keep their numbers and the order of their first windows.
        """
        numbers = tuple(dict.fromkeys(self.clips))
        clips = torch.tensor(self.clips, device=self.tokens.device)
        weights = torch.tensor(self.durations, device=self.tokens.device, dtype=self.tokens.dtype)
        weights = (torch.tensor(numbers, device=self.tokens.device)[:, None] == clips) * weights
        weights = weights / weights.sum(1, keepdim=True)
        pairs = list(zip(self.clips, self.durations, strict=True))
        return replace(
            self,
            tokens=torch.einsum("cb,bnd->cnd", weights, self.tokens),
            pooled=None if self.pooled is None else weights @ self.pooled,
            clips=numbers,
            starts=tuple(self.starts[self.clips.index(number)] for number in numbers),
            durations=tuple(sum(seconds for clip, seconds in pairs if clip == number) for number in numbers),
        )
