"""Putting a run together: data, teacher, encoder, trainer, and what the run leaves."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from transformers import Trainer, TrainingArguments, Wav2Vec2BertConfig, Wav2Vec2BertModel

from audio2img_core.checkpoint import load_strictly, save_single_file
from audio2img_core.config import AudioEncoderConfig
from audio2img_core.encoder import AudioEncoder
from audio2img_core.files import check_writable, whole_file
from audio2img_core.untrained import SIZES, make_encoder

from .captions import CaptionCache
from .clips import Source
from .config import FitConfig
from .data import clip_items
from .skiplog import SkipLog
from .sources import distinct_captions, hold_out, open_source
from .teacher import Teacher
from .trainer import AlignmentTrainer

logger = logging.getLogger(__name__)


def fit(config: FitConfig) -> AlignmentTrainer:
    """Train an encoder, or go on where the same run was stopped.

    Returns:
        The trainer, after training. The output folder holds `settings.yaml`, Trainer's checkpoints, `skipped.csv`,
        and the trained encoder as the folder `encoder` and as `encoder.safetensors`.

    Raises:
        ValueError, FileNotFoundError: settings, data, teacher or output folder that cannot be; before the first step.
    """
    run = config.run
    for name in ("data", "teacher", "output"):
        if not getattr(run, name):
            raise ValueError(f"run.{name} is empty: name the {name}")
    output = Path(run.output)
    check_writable(output)
    source, judged = open_data(config)
    teacher = Teacher.from_pretrained(run.teacher, run.target)
    keep_settings(config, output)
    captions = CaptionCache(run.captions or output / "captions", teacher)
    captions.add(distinct_captions(source) + distinct_captions(judged))
    encoder = start_encoder(config)
    null = teacher.null
    encoder.set_teacher(
        null.tokens[0],
        null_pooled=None if null.pooled is None else null.pooled[0],
        token_norms=captions.token_norms(),
    )
    arguments = TrainingArguments(output_dir=str(output), **{"report_to": "none", **config.trainer})
    freeze(encoder, run.freeze_layers)
    trainer = AlignmentTrainer(
        encoder,
        arguments,
        captions=captions,
        loss=config.loss,
        data=config.data,
        skipped=SkipLog(output / "skipped.csv", max_bad_share=config.data.max_bad_share),
        chunk_size=run.chunk_size,
        mask_padding=run.mask_padding,
        train_dataset=clip_items(source, config.data, seed=arguments.seed),
        eval_dataset=clip_items(judged, config.data, seed=arguments.seed, training=False),
        optimizers=(layered_optimizer(encoder, arguments, run.layer_decay), None),
    )
    trainer.train()
    trainer.skipped.finish()
    encoder.config.training = {"steps": trainer.state.global_step, "data": run.data, "licence": run.licence}
    encoder.save_pretrained(output / "encoder")
    save_single_file(encoder, output / "encoder.safetensors")
    return trainer


def open_data(config: FitConfig) -> tuple[Source, Source]:
    """The clips to train on and those to judge by."""
    run = config.run
    source = open_source(run.data, split=run.split or None)
    if run.eval_data:
        return source, open_source(run.eval_data, split=run.eval_split or None)
    if source.streaming:
        raise ValueError("a stream cannot hold clips out by itself: name run.eval_data")
    return hold_out(source, run.eval_share, seed=int(config.trainer.get("seed", 42)))


def keep_settings(config: FitConfig, output: Path) -> None:
    """Write the run's settings, or compare them with those that are there.

    Raises:
        ValueError: the folder holds a run of other settings; the message names what differs.
    """
    file = output / "settings.yaml"
    settings = config.to_dict()
    if not file.exists():
        with whole_file(file) as partial:
            partial.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return
    before = yaml.safe_load(file.read_text(encoding="utf-8"))
    differing = [
        f"{section}.{name}"
        for section, values in settings.items()
        for name, value in values.items()
        if before.get(section, {}).get(name) != value
    ]
    if differing:
        raise ValueError(f"{output}: holds a run of other settings ({', '.join(differing)}); choose another run.output")


def start_encoder(config: FitConfig) -> AudioEncoder:
    """The encoder that training starts from."""
    run = config.run
    if run.encoder:
        encoder = AudioEncoder.from_pretrained(run.encoder)
        if encoder.config.target != run.target:
            raise ValueError(f"{run.encoder}: is for target {encoder.config.target!r}, not {run.target!r}")
        return encoder
    if run.backbone in SIZES:
        start = make_encoder(run.target, size=run.backbone, head=config.head.kind)
        settings = {**start.config.to_dict(), "window": config.window}
        encoder = AudioEncoder(AudioEncoderConfig(**settings))
        encoder.load_state_dict(start.state_dict())
        return encoder
    backbone = load_strictly(Wav2Vec2BertModel.from_pretrained, run.backbone, allow_unexpected=True)
    settings = {**backbone.config.to_dict(), "num_adapter_layers": 2, "layerdrop": 0.0}
    encoder = AudioEncoder(
        AudioEncoderConfig(
            backbone=Wav2Vec2BertConfig(**settings), head=config.head, window=config.window, target=run.target
        )
    )
    encoder.backbone.load_state_dict(backbone.state_dict())
    return encoder


def freeze(encoder: AudioEncoder, layers: int) -> None:
    """Keep the feature projection and the lowest `layers` layers of the backbone as they are.

    Raises:
        ValueError: the backbone has fewer layers.
    """
    backbone = encoder.backbone
    if layers > len(backbone.encoder.layers):
        raise ValueError(f"run.freeze_layers is {layers}, but the backbone has {len(backbone.encoder.layers)} layers")
    for module in (backbone.feature_projection, *backbone.encoder.layers[:layers]) if layers else ():
        module.requires_grad_(False)


def layered_optimizer(encoder: AudioEncoder, arguments: TrainingArguments, decay: float) -> Any:
    """Trainer's own optimizer with a lower rate for each lower layer; None (Trainer makes its own) where decay is 1.

    The head learns at the full rate, the backbone's top layer at `decay` times that, and so on down (ELECTRA,
    arXiv:2003.10555, appendix A).
    """
    if decay == 1:
        return None
    layers = len(encoder.backbone.encoder.layers)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        depth = 0
        if name.startswith("backbone.encoder.layers."):
            depth = layers - int(name.split(".")[3])
        elif name.startswith("backbone."):
            depth = layers + 1
        if parameter.requires_grad:
            groups.setdefault(decay**depth, []).append(parameter)
    cls, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    rate = options.pop("lr")
    parts: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate * share, "weight_decay": arguments.weight_decay}
        for share, parameters in groups.items()
    ]
    return cls(parts, lr=rate, **options)


def with_trainer(config: FitConfig, **options: Any) -> FitConfig:
    """The settings with some of Trainer's replaced."""
    return replace(config, trainer={**config.trainer, **options})
