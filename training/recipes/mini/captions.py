"""What can be said of one or two concepts, in which style."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

_PAIR_SHARE = 0.25
_STYLE_SHARE = 0.35
_JOINTS = ("{} and {}", "{} with {}", "{}, {}", "{} next to {}")


@dataclass(frozen=True)
class Captions:
    """The concepts, their wordings and the names of the styles; the first style is that of captions without one."""

    concepts: list[str]
    wordings: list[list[str]]  # of each concept
    styles: list[str]

    def settings(self) -> dict[str, object]:
        """All of it, for `loop.train` to know trainings with other captions by."""
        return asdict(self)

    def texts(self) -> list[str]:
        """Every wording alone, some in each style, and joined with others: what the vocabulary is learned on."""
        plain = [text for wordings in self.wordings for text in wordings]
        styled = [self.in_style(text, style) for text in plain[::7] for style in range(1, len(self.styles))]
        joined = [joint.format(a, b) for joint in _JOINTS for a, b in zip(plain, plain[3:], strict=False)]
        return plain + styled + joined

    def in_style(self, text: str, style: int) -> str:
        """The text with the name of the style behind it; the first style goes without saying."""
        return text if style == 0 else f"{text}, {self.styles[style]} style"

    def draw(self, generator: torch.Generator, count: int) -> list[tuple[str, list[int], int]]:
        """Random (text, concepts it names, style): about a quarter with two concepts."""
        said = []
        for _ in range(count):
            draws = torch.rand(3, generator=generator).tolist()
            style = 0
            if draws[0] < _STYLE_SHARE:
                style = 1 + int(torch.randint(len(self.styles) - 1, (), generator=generator))
            shown = torch.randperm(len(self.concepts), generator=generator)[
                : 2 if draws[1] < _PAIR_SHARE else 1
            ].tolist()
            words = [self._wording(concept, generator) for concept in shown]
            if len(shown) == 2:
                words = [_JOINTS[int(draws[2] * len(_JOINTS))].format(*words)]
            said.append((self.in_style(words[0], style), shown, style))
        return said

    def _wording(self, concept: int, generator: torch.Generator) -> str:
        wordings = self.wordings[concept]
        return wordings[int(torch.randint(len(wordings), (), generator=generator))]
