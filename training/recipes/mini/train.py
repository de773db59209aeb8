"""Train all of `mini`: `python -m training.recipes.mini.train --data FOLDER --output FOLDER`.

Autoencoder, text encoder, UNet, audio encoder on all sounds and then on those that it is to know, UNet with what the
encoder hears and then with what it names, and the classifier that judges the pictures. Each part goes on where it was
stopped; `--only` trains some of them: once autoencoder and teacher are there, two processes can train UNet and encoder.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from audio2img_core.storage.files import whole_folder

from ...teacher.text_encoder import Teacher
from . import autoencoder, classifier, diffusion, export, hearing, pictures, summary, teacher
from .captions import Captions
from .images import Pictures, load_pictures
from .sound_prompts import SoundPrompts
from .sounds import read_jsonl, write_jsonl
from .table import captions as wordings_of
from .table import concepts as read_table
from .table import plain_name

STEPS = {
    "autoencoder": 2000,
    "teacher": 500,
    "unet": 5000,
    "hearing": 1400,
    "encoder": 2000,
    "heard": 3000,
    "settled": 1800,
    "classifier": 2500,
}
STYLES = {style.name: style.spoken for style in pictures.STYLES if style.role == "draw"}
"""What the UNet draws, and what it is called."""


class Recipe:
    """The parts of `mini`, trained in a folder or loaded from it."""

    def __init__(self, data: Path, output: Path, *, scale: float = 1.0):
        """scale: of the numbers of steps, for trials."""
        self.data, self.output, self.scale = data, output, scale
        self.table = read_table()
        self.pictures = load_pictures(data)
        drawn = self.pictures.where(roles=["draw"])
        self.concepts = [name for name in self.table if name in drawn.concepts]
        self.captions = Captions(
            self.concepts, [wordings_of(name, self.table[name]) for name in self.concepts], list(STYLES.values())
        )
        self.names = {name: plain_name(name, self.table[name]) for name in self.concepts}
        heard = {name: self.table[name].get("heard", "yes") for name in self.concepts}
        self.learned = {name: self.names[name] for name in self.concepts if heard[name] != "no"}
        self.audible = {name: self.names[name] for name in self.concepts if heard[name] == "yes"}
        self.grid = _grid(drawn, self.concepts)

    def steps(self, part: str) -> int:
        """Steps of a part."""
        return max(int(STEPS[part] * self.scale), 2)

    @cached_property
    def autoencoder(self):
        """The trained diffusers `AutoencoderTiny`."""
        drawn = self.pictures.where(roles=["draw"])
        return autoencoder.train_autoencoder(drawn, self.output / "autoencoder", steps=self.steps("autoencoder"))

    @cached_property
    def teacher(self):
        """The trained (CLIPTokenizer, CLIPTextModel), kept as a diffusers folder for `fit` to load."""
        tokenizer, text = teacher.train_teacher(
            self.captions, self.grid, self.output / "teacher", steps=self.steps("teacher")
        )
        folder = self.output / "diffusion"
        with whole_folder(folder, replace=True) as partial:
            text.save_pretrained(partial / "text_encoder")
            tokenizer.save_pretrained(partial / "tokenizer")
        return tokenizer, text

    @cached_property
    def unet(self):
        """The UNet, trained on text."""
        prompts = self._text_prompts()
        return diffusion.train_unet(
            self.library, self.captions, prompts, self.output / "unet", steps=self.steps("unet")
        )

    @cached_property
    def library(self) -> diffusion.Library:
        """Latents of what captions show."""
        return diffusion.Library(self.autoencoder, self.grid)

    @cached_property
    def hearing(self):
        """The audio encoder after the sounds of all concepts, those included that it will not know well enough."""
        return self._train_encoder("hearing", self.names, hearing.FIRST)

    @cached_property
    def encoder(self):
        """The audio encoder, trained on with the sounds that it is to know."""
        _ = self.hearing
        start = self.output / "hearing" / "encoder.safetensors"
        return self._train_encoder("encoder", self.learned, {**hearing.SECOND, "run__encoder": str(start)})

    def _train_encoder(self, part: str, names: dict[str, str], flags: dict[str, str]):
        _ = self.teacher  # `fit` loads it from its folder
        manifests = hearing.write_manifests(self.data, self.output / part / "manifests", names)
        return hearing.train_encoder(
            manifests, self.output / "diffusion", self.output / part, steps=self.steps(part), **flags
        )

    @cached_property
    def heard(self):
        """The UNet, trained on with what the encoder hears beside text: half of its prompts are sounds."""
        return self._train_on("heard", self.unet, lambda: self._sounds)

    @cached_property
    def settled(self):
        """The UNet, trained on with the sounds that mini names alone, and with mixtures of two that are alike."""
        return self._train_on("settled", self.heard, lambda: self._settled_sounds)

    def _train_on(self, part: str, start, sounds: Callable[[], SoundPrompts]):
        """`sounds` is called by what is left to train alone: to hear all of them takes minutes."""
        text = self._text_prompts()
        return diffusion.train_unet(
            self.library,
            self.captions,
            lambda asked, generator: sounds().prompts(text, asked, generator),
            self.output / part,
            steps=self.steps(part),
            draw=lambda generator, count: sounds().drawn(self.captions, generator, count),
            start=start,
            learning_rate=4e-4,
        )

    @cached_property
    def _sounds(self) -> SoundPrompts:
        """What the encoder hears in all sounds of the concepts that it has learned."""
        encoder = self.encoder
        # Those of validation too: the encoder has not learned them, so they are heard as a user's sounds are.
        manifests = self.output / "encoder" / "manifests"
        sounds = [row for split in ("train", "valid") for row in read_jsonl(manifests / f"{split}.jsonl")]
        write_jsonl(manifests / "heard.jsonl", sounds)
        source, data = hearing.training_source(manifests / "heard.jsonl")
        tokens, said = hearing.heard_tokens(encoder, source, data, epochs=3)
        numbers = {name: self.concepts.index(concept) for concept, name in self.learned.items()}
        rows: dict[int, list[int]] = {}
        for row, caption in enumerate(said):
            rows.setdefault(numbers[caption], []).append(row)
        bos = encoder.bos_token
        assert bos is not None  # a trained encoder carries it
        return SoundPrompts(bos[None].float(), tokens, rows, {})

    @cached_property
    def _settled_sounds(self) -> SoundPrompts:
        """Of those the sounds that mini names, where it hears them right."""
        tokenizer, text = self.teacher
        captions = Teacher("mini", [tokenizer], [text]).encode(list(self.audible.values())).tokens.float()
        return self._sounds.settled(self.encoder, captions, [self.concepts.index(name) for name in self.audible])

    @cached_property
    def classifier(self):
        """The judge, trained on the styles that are drawn and on those that only it sees."""
        pictures = self.pictures.where(roles=["draw", "judge"], concepts=self.concepts)
        return classifier.train_classifier(
            pictures, self.concepts, self.output / "classifier", steps=self.steps("classifier")
        )

    def _text_prompts(self) -> diffusion.Prompts:
        tokenizer, text = self.teacher
        taught = Teacher("mini", [tokenizer], [text])
        known: dict[str, Tensor] = {}

        def prompts(asked: diffusion.Said, generator: torch.Generator) -> Tensor:
            missing = [words for words, *_ in asked if words not in known]
            if missing:
                known.update(zip(missing, taught.encode(missing).tokens.half(), strict=True))
            return torch.stack([known[words].float() for words, *_ in asked])

        return prompts


def _grid(drawn: Pictures, concepts: list[str]) -> Tensor:
    """Pictures [C, S, 3, H, W] of each concept in each style, else in the first that has it."""
    there = torch.zeros(len(concepts), len(STYLES), dtype=torch.bool)
    grid = torch.zeros(len(concepts), len(STYLES), *drawn.pixels.shape[1:])
    for pixels, concept, style in zip(drawn.pixels, drawn.concepts, drawn.styles, strict=True):
        if concept in concepts and style in STYLES:
            place = concepts.index(concept), list(STYLES).index(style)
            grid[place], there[place] = pixels, True
    for concept, row in enumerate(there):
        grid[concept, ~row] = grid[concept, int(row.int().argmax())].clone()
    return grid


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.mini.train", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="what training.recipes.mini.data has built")
    parser.add_argument("--output", type=Path, required=True, help="folder of the parts, their checkpoints and logs")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), help="parts to train (default: all)")
    parser.add_argument("--export", type=Path, help="then write what is shipped into this folder")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of steps, for trials")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = Recipe(options.data, options.output, scale=options.scale)
    for part in options.only:
        getattr(recipe, part)
    if options.export:
        pipeline = export.make_pipeline(recipe.autoencoder, recipe.teacher, recipe.settled)
        names = list(recipe.audible.values())
        sources = summary.credits(*(read_jsonl(options.data / f"{kind}.jsonl") for kind in ("sounds", "pictures")))
        size = export.export(pipeline, recipe.encoder, names, sources, options.export)
        print(f"{options.export}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
