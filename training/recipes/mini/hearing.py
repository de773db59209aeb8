"""The audio encoder of `mini`, trained with our own `fit` against the small text encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from audio2img_core import AudioEncoder

from ...config import load_settings
from ...data.clips import Source
from ...data.dataset import ClipDataset, DataConfig, collate
from ...data.features import batch_features
from ...data.sources import open_source
from ...loop.fit import finished_run, fit
from .sounds import read_jsonl, write_jsonl

SETTINGS = Path(__file__).with_name("encoder.yaml")
BACKBONE = {
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "conv_depthwise_kernel_size": 15,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
    "feat_proj_dropout": 0.0,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.0,
    "num_adapter_layers": 2,
    "initializer_range": 0.05,  # the published 0.02 is for a width of 1024
}
FIRST = {"trainer__lr_scheduler_kwargs": "{num_cycles: 0.2778}"}
"""Of the training on all sounds: its cosine stops at 5/9 of the way, at the rate with which the second begins."""
SECOND = {"trainer__learning_rate": "4.2e-4", "trainer__warmup_steps": "50"}


def write_manifests(data: Path, folder: Path, names: dict[str, str]) -> dict[str, Path]:
    """Manifests of each split with one caption a sound, the plain name of its concept.

    Args:
        data: folder with `train.jsonl`, `valid.jsonl` and `test.jsonl`, whose rows have audio and concept.
        folder: where they are written.
        names: concept -> what it is called; sounds of others are left out.

    Returns:
        Split -> manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for split in ("train", "valid", "test"):
        rows = read_jsonl(data / f"{split}.jsonl")
        kept = [
            {"audio": str((data / row["audio"]).resolve()), "caption": names[row["concept"]]}
            for row in rows
            if row["concept"] in names
        ]
        written[split] = folder / f"{split}.jsonl"
        write_jsonl(written[split], kept)
    return written


def make_backbone(folder: Path) -> Path:
    """An untrained `Wav2Vec2BertModel` of mini's size, saved for `fit` to begin with."""
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(0)
        Wav2Vec2BertModel(Wav2Vec2BertConfig(**BACKBONE)).save_pretrained(folder)
    return folder


def train_encoder(
    manifests: dict[str, Path], teacher: Path, folder: Path, *, steps: int, preset: str = "default", **more: str
) -> AudioEncoder:
    """Train by the settings of `encoder.yaml` on top of a preset; a stopped training goes on, an ended one is loaded.

    Args:
        manifests: of `write_manifests`. teacher: the diffusers folder with the text encoder.
        folder: of the run.
        steps: of the optimizer.
        more: further flags, section__field=text.
    """
    flags = {
        "run.data": str(manifests["train"]),
        "run.eval_data": str(manifests["valid"]),
        "run.teacher": str(teacher),
        "run.backbone": str(make_backbone(folder.parent / "backbone")),
        "run.output": str(folder),
        "trainer.max_steps": str(steps),
        "trainer.use_cpu": str(not torch.cuda.is_available()).lower(),  # bfloat16 asks for one or the other
        **{name.replace("__", "."): text for name, text in more.items()},
    }
    config = load_settings(preset, [SETTINGS], flags)
    if not finished_run(config):
        fit(config)
    return AudioEncoder.from_pretrained(folder / "encoder.safetensors")


@torch.no_grad()
def heard_tokens(
    encoder: AudioEncoder, source: Source, data: DataConfig, *, epochs: int = 1, seed: int = 0
) -> tuple[Tensor, list[str]]:
    """What the encoder says of clips as training shows them: tokens [N, T, D] float16 and their captions.

    Args:
        epochs: times that each clip is shown, another part and another room each time.
    """
    items = ClipDataset(source, data, seed=seed)
    loader = torch.utils.data.DataLoader(items, batch_size=32, num_workers=2, collate_fn=collate)
    tokens, captions = [], []
    for epoch in range(epochs):
        items.set_epoch(epoch)
        for batch in loader:
            features, mask = batch_features(batch["waveform"], batch["lengths"], encoder.config.window)
            tokens.append(encoder(features, mask).tokens.half())
            captions += batch["caption"]
    return torch.cat(tokens), captions


def training_source(manifest: Path) -> tuple[Source, DataConfig]:
    """The clips that the encoder was trained on and how it saw them, each once and without mixtures."""
    config = load_settings("default", [SETTINGS], {"data.mix_probability": "0", "data.balance": "0"})
    return open_source(manifest), config.data
