"""A small CLIP text encoder that knows the captions of a benchmark, for machines without a published one.

It is made as CLIP's is: byte-pair tokens, causal attention, a final LayerNorm, and a contrastive loss on
the token that ends the text, with each caption against what it names. What CLIP has in pictures is a learned vector for
each name here, so names are as far apart as they come: there is no likeness of a viola and a violin beyond chance, and
what this teacher says of captions beyond its own means nothing. What follows the end of the text is padded with that
token and not trained, as in CLIP; a diffusion model gets it too.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from audio2img_core.random_init import make_diffusion, make_tokenizer
from audio2img_core.targets import PROMPT_TOKENS

_CONFIG = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
_PROJECTION = 128  # channels of the space in which captions meet names
_TEMPERATURE = 0.07
_RATE = 5e-4


def save_teacher(folder: Path, captions: Sequence[Sequence[str]], *, steps: int = 60, seed: int = 0) -> float:
    """Train a text encoder for the target "mini", and save it in a diffusers folder whose other parts are untrained.

    Args:
        folder: the diffusers folder to write.
        captions: all wordings of each of N names.
        steps: of AdamW, each with all captions.
        seed: of the random weights.

    Returns:
        The share of captions that find their name.
    """
    texts = [text for wordings in captions for text in wordings]
    names = torch.tensor([i for i, wordings in enumerate(captions) for _ in wordings])
    tokenizer = word_tokenizer(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, share = _train(texts, names, tokenizer, steps)
    diffusion = make_diffusion("mini", seed=seed)
    diffusion.register_modules(text_encoder=encoder, tokenizer=tokenizer)
    diffusion.save_pretrained(folder)
    return share


def word_tokenizer(texts: Sequence[str]) -> Any:
    """A `CLIPTokenizer` that makes one token of most words of these texts and a few of others, as CLIP's own does."""
    from transformers import CLIPTokenizer

    base = make_tokenizer(514).get_vocab()
    pieces = [token for token, _ in sorted(base.items(), key=lambda item: item[1]) if not token.startswith("<|")]
    merges: dict[tuple[str, str], None] = {}
    for word in sorted({word for text in texts for word in text.lower().replace("-", " - ").split()}):
        left = word[0]
        for i, letter in enumerate(word[1:], start=2):
            right = letter + "</w>" * (i == len(word))
            merges[left, right] = None
            left += right
    ordered = sorted(merges, key=lambda pair: len(pair[0]))
    pieces += list(dict.fromkeys(left + right for left, right in ordered))
    vocab = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in ordered)]
        (Path(folder) / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": PROMPT_TOKENS}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def _train(texts: list[str], names: torch.Tensor, tokenizer: Any, steps: int) -> tuple[nn.Module, float]:
    from transformers import CLIPTextConfig, CLIPTextModel

    last = len(tokenizer) - 1
    special = {"vocab_size": last + 1, "bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    encoder = CLIPTextModel(CLIPTextConfig(**_CONFIG, **special))
    projection = nn.Linear(_CONFIG["hidden_size"], _PROJECTION, bias=False)
    vectors = nn.Parameter(torch.randn(int(names.max()) + 1, _PROJECTION))
    ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids  # causal: what pads the rest is not needed
    optimizer = torch.optim.AdamW([*encoder.parameters(), *projection.parameters(), vectors], lr=_RATE)
    scores = torch.empty(0)
    for _ in range(steps):
        pooled = projection(encoder(ids).pooler_output)
        scores = F.normalize(pooled, dim=-1) @ F.normalize(vectors, dim=-1).T / _TEMPERATURE
        loss = F.cross_entropy(scores, names)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder.eval(), (scores.argmax(1) == names).float().mean().item()
