"""What the audio encoder hears, as prompts that the UNet learns from beside texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audio2img_core import AudioEmbeddings, AudioEncoder
from audio2img_core.conditioning.zero_shot import caption_scores

from .captions import Captions
from .diffusion import Prompts, Said

SOUND = "\N{EIGHTH NOTE}"  # in the place of a text: the prompt is what is heard
_MIXED_SHARE = 0.5  # of sounds, where rivals are known
_PART = 512  # rows that are compared with captions at once


@dataclass(frozen=True)
class SoundPrompts:
    """What an encoder hears in the sounds of concepts."""

    bos: Tensor  # [1, D] the teacher's BOS token
    tokens: Tensor  # [N, 76, D] float16
    rows: dict[int, list[int]]  # rows of `tokens` by the number of the concept
    rivals: dict[int, int]  # row -> the number of the concept that it is most easily taken for; may be empty

    def drawn(self, captions: Captions, generator: torch.Generator, count: int) -> Said:
        """As `captions.draw`, but every second one is a sound of one of these concepts, in the first style."""
        said = captions.draw(generator, count)
        for place in range(0, count, 2):
            said[place] = (SOUND, [_choose(list(self.rows), generator)], 0)
        return said

    def prompts(self, text: Prompts, asked: Said, generator: torch.Generator) -> Tensor:
        """Tokens [B, 77, D] of texts, by `text`, and of sounds.

        Half of the sounds whose rivals are known are mixed with one of their rival, of which there is always less: the
        UNet is to draw what is heard best, as the nearest caption says it.
        """
        given = text([("" if words == SOUND else words, shown, style) for words, shown, style in asked], generator)
        for i, (words, shown, _) in enumerate(asked):
            if words != SOUND:
                continue
            row = _choose(self.rows[shown[0]], generator)
            heard = self.tokens[row].float()
            mixed, share = torch.rand(2, generator=generator).tolist()
            if row in self.rivals and mixed < _MIXED_SHARE:
                rival = _choose(self.rows[self.rivals[row]], generator)
                heard = heard.lerp(self.tokens[rival].float(), share / 2)
            given[i] = torch.cat([self.bos, heard])
        return given

    def settled(self, encoder: AudioEncoder, captions: Tensor, numbers: list[int]) -> SoundPrompts:
        """Those sounds of some concepts that are heard right, with their rivals.

        Args:
            encoder: that heard them.
            captions: [M, 77, D] the prompts of the concepts that are chosen from. numbers: [M] of these concepts.

        Raises:
            ValueError: not one sound is heard right.
        """
        nearest = []
        for part in self.tokens.split(_PART):
            some = tuple(range(len(part)))
            heard = AudioEmbeddings(part.float(), None, some, (0.0,) * len(some), (1.0,) * len(some), encoder.space)
            nearest.append(caption_scores(heard, captions).topk(2).indices)
        best = torch.cat(nearest).tolist()
        rows = {
            number: [row for row in self.rows[number] if best[row][0] == place] for place, number in enumerate(numbers)
        }
        rows = {number: kept for number, kept in rows.items() if kept}
        if not rows:
            raise ValueError("not one sound is heard right: the encoder has learned nothing")
        rivals = {row: numbers[best[row][1]] for kept in rows.values() for row in kept}
        return replace(self, rows=rows, rivals={row: rival for row, rival in rivals.items() if rival in rows})


def _choose(among: list[int], generator: torch.Generator) -> int:
    return among[int(torch.randint(len(among), (), generator=generator))]
