"""Teach the student's head a text model's tokens: `python -m training.recipes.mini.ear.align --start RUN ...`.

The second step, after `distil`: from the backbone's frames to the tokens of captions. A view's target is a share of
belief for each kind: of its label where it has one; where it has none, what the teacher hears, and the rest on all
kinds alike, so that what nobody knows is told as unsure. Of two sounds each has its share by loudness.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audio2img_core import mini

from .distil import Example, Examples, Run, Settings, produced, train
from .kinds import kinds, votes
from .measure import Judge
from .student import Student, autocast, distillation_loss
from .teacher import Teacher, load_teacher

log = logging.getLogger(__name__)
DIFFUSION = Path(mini.__file__).parent / "diffusion"
SURE = 0.3  # a teacher's vote below it says nothing
DISTIL_WEIGHT, TOKEN_WEIGHT = 0.1, 2.0


class Captions:
    """A text model's tokens of every wording of every kind.

    Args:
        folder: of a diffusers pipeline with a CLIP text encoder. device: where the tokens are.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoTokenizer, CLIPTextModel

        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        model: Any = CLIPTextModel.from_pretrained(folder / "text_encoder")
        self.model = model.to(device).eval().requires_grad_(False)
        self.device = device
        self.names = list(kinds())
        self.says = [kinds()[name].says for name in self.names]
        tokens = self(["", *(text for says in self.says for text in says)])
        self.null, self.tokens = tokens[0], tokens[1:]
        self.first = torch.tensor([0, *(len(says) for says in self.says[:-1])]).cumsum(0)
        self.counts = torch.tensor([len(says) for says in self.says])

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokens [M, 77, D] float32 of texts."""
        ids = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).input_ids
        parts = [self.model(some.to(self.device)).last_hidden_state.float() for some in ids.split(256)]
        return torch.cat(parts)

    def plain(self) -> Tensor:
        """Tokens of every kind's plain name, [K, 77, D]."""
        return self.tokens[self.first]

    def bank(self, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """A random wording of every kind: its tokens [K, 77, D], and the wordings."""
        pick = (torch.rand(len(self.names), generator=generator) * self.counts).long()
        texts = [says[i] for says, i in zip(self.says, pick.tolist(), strict=True)]
        return self.tokens[self.first + pick], texts


def targets(example: Example, names: list[str]) -> Tensor:
    """The share of belief of every kind that a view's sounds should get, [B, K]; rows sum to one."""
    size = len(names)
    probability = votes(example.heard.logits, names).sigmoid()
    probability = torch.where(probability >= SURE, probability, 0.0)
    total = probability.sum(1, keepdim=True)
    unlabelled = probability / total.clamp_min(1.0) + (1 - total).clamp_min(0.0) / size
    share = example.level[:, None] / (1 + example.level[:, None])
    # A second sound 12 dB below the first is hardly heard.
    share = torch.where(share < 0.2, 0.0, share)
    each = [
        torch.where(place[:, None] >= 0, F.one_hot(place.clamp_min(0), size).float(), unlabelled)
        for place in example.kinds.unbind(1)
    ]
    return (1 - share) * each[0] + share * each[1]


def caption_of(example: Example, texts: list[str]) -> tuple[list[str], Tensor]:
    """The caption of each view, joined where two labelled sounds are heard, and [B] bool: views that have one."""
    captions, known = [], []
    for (one, two), level in zip(example.kinds.tolist(), example.level.tolist(), strict=True):
        heard = [texts[one]] if one >= 0 else []
        if level / (1 + level) >= 0.2:
            heard = [*heard, texts[two]] if two >= 0 and heard else []
        if level > 1:
            heard.reverse()
        captions.append(" and ".join(dict.fromkeys(heard)))
        known.append(bool(heard))
    return captions, torch.tensor(known, device=example.inputs.device)


class Aligning(Run):
    """A student whose head learns captions; see `Run`.

    Args:
        start: checkpoint of the distillation. captions: of the text model.
    """

    name = "aligned.pt"

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        teacher: Teacher,
        device: torch.device,
        *,
        start: Path,
        captions: Captions,
    ) -> None:
        self.start, self.captions = start, captions
        super().__init__(folder, settings, teacher, device)

    def begin(self) -> None:
        """Start from the distilled average; the head at the mean caption."""
        saved = torch.load(self.start, map_location=self.device, weights_only=True)
        self.student.load_state_dict(saved["average"])
        encoder: Any = self.student.encoder
        encoder.head.start_from(self.captions.plain()[:, 1:].mean(0), None)
        encoder.logit_scale.data.fill_(math.log(20.0))
        encoder.logit_scale.requires_grad_(True)

    def loss(self, example: Example) -> tuple[Tensor, dict[str, Tensor]]:
        """Belief, tokens, and a little of the distillation."""
        generator = torch.Generator().manual_seed(self.settings.seed * 7919 + self.step)
        bank, texts = self.captions.bank(generator)
        encoder = self.student.encoder
        with autocast(self.device.type):
            frames = self.student.frames(example.inputs)
            logits, guessed = self.student.guess(frames, example.heard.frames.shape[1])
            tokens = encoder.head(frames)[0].float()
        belief = encoder.logit_scale.exp().clamp(max=100.0) * cosines(tokens, bank)
        wanted = targets(example, self.captions.names)
        entropy = -(wanted * wanted.clamp_min(1e-9).log()).sum(1)
        named = (-(wanted * belief.log_softmax(1)).sum(1) - entropy).mean()
        said, known = caption_of(example, texts)
        right = self.captions(said)[:, 1:]
        apart = 1 - F.cosine_similarity(tokens, right, dim=2).mean(1) + 0.1 * (tokens - right).square().mean((1, 2))
        apart = (apart * known).sum() / known.sum().clamp_min(1)
        kept, parts = distillation_loss(
            logits.float(), guessed.float(), example.heard, self.student.mean, self.student.std
        )
        loss = named + TOKEN_WEIGHT * apart + DISTIL_WEIGHT * kept
        return loss, {**parts, "belief_kl": named.detach(), "tokens": apart.detach()}


def cosines(tokens: Tensor, bank: Tensor) -> Tensor:
    """Mean over positions of the cosines of tokens [B, 76, D] and captions [K, 77, D]: [B, K]."""
    audio, text = F.normalize(tokens, dim=2), F.normalize(bank[:, 1:], dim=2)
    return torch.einsum("btd,ktd->bk", audio, text) / tokens.shape[1]


@torch.no_grad()
def beliefs(student: Student, clips: dict, captions: Captions, device: torch.device) -> Tensor:
    """Mean cosines [clips, K] of clips and the kinds' plain names, as `caption_scores` has them.

    Args:
        clips: of `measure.prepare`.
    """
    student.eval()
    tokens = []
    for inputs in clips["windows"].split(64):
        with autocast(device.type):
            frames = student.frames(inputs.to(device, torch.float32))
            tokens.append(student.encoder.head(frames)[0].float())
    every = torch.cat(tokens)
    owner = clips["owner"].to(device)
    total = every.new_zeros(int(owner.max()) + 1, *every.shape[1:]).index_add_(0, owner, every)
    return cosines(total / torch.bincount(owner)[:, None, None], captions.plain()).cpu()


def fitted_scale(cosine: Tensor, places: Tensor) -> float:
    """The scale at which the right kinds are most likely: cosines [N, K], right kinds [N]."""
    scales = torch.logspace(0, 2.5, 200)
    losses = [F.cross_entropy(scale * cosine, places) for scale in scales]
    return float(scales[int(torch.stack(losses).argmin())])


def export(student: Student, captions: Captions, folder: Path, *, scale: float, facts: dict) -> None:
    """Write the encoder in float16, with the unconditional prompt and the fitted scale."""
    encoder = student.encoder.cpu().eval()
    plain = captions.tokens.cpu()
    encoder.set_teacher(captions.null.cpu(), token_norms=plain.norm(dim=2).mean(0))
    encoder.logit_scale.data.fill_(math.log(scale))
    encoder.config.training = facts
    encoder.half().save_pretrained(folder)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.mini.ear.align", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--store", type=Path, required=True, help="folder that training.recipes.mini.ear.build made")
    parser.add_argument("--teacher", type=Path, required=True, help="path of mn04.safetensors")
    parser.add_argument("--start", type=Path, required=True, help="run of training.recipes.mini.ear.distil")
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoint and log; resumed if it exists")
    parser.add_argument(
        "--diffusion", type=Path, default=DIFFUSION, help="pipeline with the text model (default: mini)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time budget (default: none)")
    parser.add_argument("--views", type=int, default=600_000, help="length of the schedule (default %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="views in a step (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a view (default %(default)s)")
    parser.add_argument("--augment", type=float, default=1.0, help="as of distil (default %(default)s)")
    parser.add_argument("--lr", type=float, default=4e-4, help="peak learning rate at batch 16 (default %(default)s)")
    parser.add_argument(
        "--judge-minutes", type=float, default=20.0, help="between measurements; inf = none (default %(default)s)"
    )
    parser.add_argument("--export", type=Path, help="folder for the encoder when the time is over")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        device = torch.device(options.device)
        start = options.start / Run.name
        if not start.is_file():
            raise FileNotFoundError(f"{start}: no such file; expected a run of training.recipes.mini.ear.distil")
        shape = torch.load(start, map_location="cpu", weights_only=True)["settings"]
        sizes = {name: getattr(options, name) for name in ("batch", "seconds", "augment", "views", "lr")}
        settings = Settings(**{**shape, **sizes})
        teacher, captions = load_teacher(options.teacher), Captions(options.diffusion, device)
        run = Aligning(options.run, settings, teacher, device, start=start, captions=captions)
        judge = Judge(options.store, options.run, teacher, device)
        if device.type == "cuda":
            examples = Examples(options.store, teacher, run.settings, device)
            source = (examples(step) for step in range(run.step, 2**62))
        else:
            source = produced(options.store, options.teacher, run.settings, run.step)
        train(run, source, minutes=options.minutes, judge=judge, judge_minutes=options.judge_minutes)
        if options.export:
            clips = judge.valid()
            places = torch.tensor([captions.names.index(kind) for kind in clips["kinds"]])
            scale = fitted_scale(beliefs(run.average, clips, captions, device), places)
            facts = {"licence": "Apache-2.0", "views": run.seen, "teacher": "mn04", "scale": round(scale, 2)}
            export(run.average, captions, options.export, scale=scale, facts=facts)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
