"""The text encoder of `mini`: a small CLIP with a vocabulary of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from audio2img_core import random_init as untrained
from audio2img_core.targets import PROMPT_TOKENS, get_target

from .captions import Captions
from .loop import train

VOCABULARY = 1024
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_LAYERS, _HEADS = 2, 4


def make_tokenizer(texts: Sequence[str], folder: Path) -> CLIPTokenizer:
    """A `CLIPTokenizer` with byte-pair merges learned on these texts, saved in the folder; or the one that is there.

    The same texts give the same vocabulary: a teacher, and all that learned from it, is worth nothing with another.
    """
    from tokenizers import Tokenizer, models, trainers

    if (folder / "tokenizer_config.json").is_file():
        return CLIPTokenizer.from_pretrained(folder)
    bytes_only = untrained.make_tokenizer(514)
    letters = [token for token, i in sorted(bytes_only.get_vocab().items(), key=lambda entry: entry[1]) if i < 512]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = bytes_only.backend_tokenizer.normalizer
    learner.pre_tokenizer = bytes_only.backend_tokenizer.pre_tokenizer
    # More is learned than is kept. The letters are given: numbered as they are met, in the order of a hash table, they
    # would decide otherwise in every process which of two pairs, found equally often, is merged first.
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=2 * VOCABULARY, special_tokens=letters, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    merges = merges[: VOCABULARY - len(letters) - len(_SPECIAL)]
    tokens = list(dict.fromkeys([*letters, *("".join(merge) for merge in merges)]))
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate([*tokens, *_SPECIAL])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": PROMPT_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def train_teacher(captions: Captions, pictures: Tensor, folder: Path, *, steps: int, batch_size: int = 48):
    """Train text encoder and picture tower as CLIP is (arXiv:2103.00020), with the names of the concepts besides.

    Args:
        captions: what can be said, with its concepts.
        pictures: [C, S, 3, H, W] of every concept in every style.

    Returns:
        (CLIPTokenizer, CLIPTextModel)
    """
    tokenizer = make_tokenizer(captions.texts(), folder / "tokenizer")
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    special: dict[str, Any] = {name: getattr(tokenizer, name) for name in names}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=get_target("mini").width,
        intermediate_size=2 * get_target("mini").width,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        max_position_embeddings=PROMPT_TOKENS,
        hidden_act="quick_gelu",
        **special,
    )
    torch.manual_seed(0)
    both = _Towers(CLIPTextModel(config), len(captions.concepts))
    small = F.interpolate(pictures.flatten(0, 1), size=(32, 32), mode="area").unflatten(0, pictures.shape[:2])

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        said = captions.draw(generator, batch_size)
        tokens = tokenizer(
            [text for text, _, _ in said], padding="max_length", max_length=PROMPT_TOKENS, return_tensors="pt"
        )
        target = torch.zeros(len(said), len(captions.concepts))
        for row, (_, shown, _) in zip(target, said, strict=True):
            row[shown] = 1.0
        return both(tokens.input_ids, tokens.attention_mask, target, small, [shown for _, shown, _ in said], generator)

    train("teacher", both, loss, folder, steps=steps, learning_rate=1e-3, settings=captions.settings())
    return tokenizer, both.text


class _Towers(nn.Module):
    """The text encoder with what teaches it: a picture tower, and a reader of concepts at every position."""

    def __init__(self, text: CLIPTextModel, concepts: int):
        super().__init__()
        width = text.config.hidden_size
        self.text = text
        self.picture = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.GELU(), nn.Conv2d(32, 64, 3, 2, 1), nn.GELU(), nn.Conv2d(64, 96, 3, 2, 1),
            nn.GELU(), nn.Flatten(), nn.Linear(96 * 16, width),
        )  # fmt: skip
        self.project = nn.Linear(width, width)
        self.read = nn.Linear(width, concepts)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(
        self, ids: Tensor, mask: Tensor, target: Tensor, pictures: Tensor, shown: list[list[int]],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            states = self.text(ids).last_hidden_state
        states = states.float()
        last = mask.sum(1) - 1  # the first EOS has seen the whole caption, as every one after it
        place = torch.arange(ids.shape[1])[None] >= last[:, None]
        logits = self.read(states)
        wide = target[:, None].expand(-1, ids.shape[1], -1)
        named = F.binary_cross_entropy_with_logits(logits[place], wide[place])
        single = [i for i, concepts in enumerate(shown) if len(concepts) == 1]
        which = torch.tensor([shown[i][0] for i in single])
        style = torch.randint(pictures.shape[1], (len(single),), generator=generator)
        seen = F.normalize(self.picture(pictures[which, style]), dim=-1)
        said = F.normalize(self.project(states[single, last[single]]), dim=-1)
        scores = self.log_scale.clamp(max=4.6).exp() * said @ seen.T
        same = which[:, None] == which[None]
        matched = (_soft_cross_entropy(scores, same) + _soft_cross_entropy(scores.T, same)) / 2
        return {"loss": 10 * named + matched, "named": named.detach(), "matched": matched.detach()}


def _soft_cross_entropy(scores: Tensor, same: Tensor) -> Tensor:
    target = same.float() / same.sum(1, keepdim=True)
    return -(target * scores.log_softmax(1)).sum(1).mean()
