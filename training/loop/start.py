"""The encoder that a run starts from, and which of its weights learn how fast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, Wav2Vec2BertModel

from audio2img_core.encoder.checkpoint import empty_encoder, load_strictly
from audio2img_core.encoder.config import AudioEncoderConfig
from audio2img_core.encoder.heads import QueryHead
from audio2img_core.encoder.model import AudioEncoder, AudioEncoderOutput
from audio2img_core.random_init import SIZES, encoder_config

from ..config import FitConfig, RunConfig
from ..loss.gradcache import chunked
from ..teacher.captions import CaptionCache


@dataclass
class TrainedOutput(AudioEncoderOutput):
    """An encoder's output with what it learns of the loss, each []."""

    log_scale: Tensor | None = None
    logit_bias: Tensor | None = None


class TrainedEncoder(AudioEncoder):
    """An `AudioEncoder` that can go through a training batch in chunks, for batches larger than memory (GradCache).

    All that learns takes part in its `forward`, chunks and the loss's temperature too: DistributedDataParallel and
    FSDP see nothing else, and expect it once for each backward pass.
    """

    chunk_size: int = 0  # clips encoded at once; 0 = all

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None) -> AudioEncoderOutput:
        if self.training and 0 < self.chunk_size < len(input_features):
            inputs = {"input_features": input_features, "attention_mask": attention_mask}
            output = chunked(super().forward, inputs, self.chunk_size)
        else:
            output = super().forward(input_features, attention_mask)
        return TrainedOutput(**output, log_scale=self.logit_scale.reshape(()), logit_bias=self.logit_bias.reshape(()))

    def get_input_embeddings(self) -> Any:
        """Sound has none; Accelerate asks when it shards a model."""

    def without_scalars(self) -> None:
        """Make the numbers that are learned vectors of one: FSDP shards no scalars."""
        for name in ("logit_scale", "logit_bias"):
            scalar = getattr(self, name)
            setattr(self, name, nn.Parameter(scalar.detach().reshape(1), requires_grad=scalar.requires_grad))


def start_encoder(config: FitConfig, *, seed: int = 0) -> TrainedEncoder:
    """The encoder that training starts from: a checkpoint to go on with, or a backbone and a new head.

    Raises:
        ValueError, FileNotFoundError: it cannot be loaded, or is for another target.
    """
    run = config.run
    if run.encoder:
        encoder = TrainedEncoder.from_pretrained(run.encoder)
        assert isinstance(encoder, TrainedEncoder)  # mini too
        if encoder.config.target != run.target:
            raise ValueError(f"{run.encoder}: is for target {encoder.config.target!r}, not {run.target!r}")
    else:
        encoder = _new_encoder(config, seed)
        with torch.no_grad():
            encoder.logit_scale.fill_(-math.log(config.loss.temperature))
    backbone = encoder.config.backbone
    if not backbone.apply_spec_augment and hasattr(encoder.backbone, "masked_spec_embed"):
        encoder.backbone.masked_spec_embed.requires_grad_(False)  # no gradient ever comes, for which DDP would wait
    encoder.chunk_size = run.chunk_size
    return encoder


def _new_encoder(config: FitConfig, seed: int) -> TrainedEncoder:
    run, head, weights = config.run, config.head, None
    if run.backbone in SIZES:
        like = encoder_config(run.target, size=run.backbone, head=head.kind)
        backbone = like.backbone
        if run.backbone == "tiny":
            head = replace(like.head, num_tokens=head.num_tokens)
    else:
        loaded = load_strictly(Wav2Vec2BertModel.from_pretrained, run.backbone, allow_unexpected=True)
        backbone, weights = {**loaded.config.to_dict(), "num_adapter_layers": 2, "layerdrop": 0.0}, loaded.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = TrainedEncoder(
            AudioEncoderConfig(backbone=backbone, head=head, window=config.window, target=run.target)
        )
    if weights is not None:
        encoder.backbone.load_state_dict(weights)
    return encoder


def teach(encoder: AudioEncoder, captions: CaptionCache, rows: Sequence[int], *, new: bool) -> None:
    """Give the encoder what it needs to know of its teacher and of the captions it is trained on.

    Args:
        captions: the cache with its teacher. rows: those of the captions to train on.
        new: the head is untrained; one that has queries then begins at the mean prompt.
    """
    assert captions.teacher is not None
    null, norms = captions.teacher.null, captions.token_norms(rows)
    pooled = None if null.pooled is None else null.pooled[0]
    encoder.set_teacher(null.tokens[0], null_pooled=pooled, token_norms=norms)
    if new and isinstance(encoder.head, QueryHead):
        encoder.head.start_from(captions.mean_tokens(rows)[encoder.config.positions], captions.mean_pooled(rows))


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


def add_lora(encoder: AudioEncoder, run: RunConfig) -> Any:
    """Put low-rank adapters (LoRA, arXiv:2106.09685) on the backbone's linear layers, in place; the head learns whole.

    Layers that `freeze_layers` keeps get none.

    Returns:
        peft's `LoraModel`, whose `merge_and_unload` adds them to the weights again.

    Raises:
        ImportError: peft is missing.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise ImportError("run.lora_rank needs peft: pip install 'audio2img[train]'") from error
    learning = [p for name, p in encoder.named_parameters() if not name.startswith("backbone.") and p.requires_grad]
    numbers = "|".join(map(str, range(run.freeze_layers, len(encoder.backbone.encoder.layers))))
    parts = r"self_attn\.linear_(q|k|v|out)|ffn[12]\.(intermediate|output)_dense"
    settings = LoraConfig(
        r=run.lora_rank,
        lora_alpha=run.lora_alpha,
        lora_dropout=run.lora_dropout,
        target_modules=rf"backbone\.encoder\.layers\.({numbers})\.({parts})",
    )
    adapted = LoraModel(encoder, {"default": settings}, "default")
    for parameter in learning:  # peft froze all but its own
        parameter.requires_grad_(True)
    return adapted


def layered_optimizer(encoder: AudioEncoder, arguments: TrainingArguments, decay: float, no_decay: set[str]) -> Any:
    """Trainer's own optimizer with a lower rate for each lower layer; None (Trainer makes its own) where decay is 1.

    The head learns at the full rate, the backbone's top layer at `decay` times that, and so on down (ELECTRA,
    arXiv:2003.10555, appendix A). Parameters named in `no_decay` have no weight decay.
    """
    if decay == 1:
        return None
    layers = len(encoder.backbone.encoder.layers)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        depth = 0
        if name.startswith("backbone.encoder.layers."):
            depth = layers - int(name.split(".")[3])
        elif name.startswith("backbone."):
            depth = layers + 1
        if parameter.requires_grad:
            groups.setdefault((decay**depth, name not in no_decay), []).append(parameter)
    cls, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    rate = options.pop("lr")
    parts: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate * share, "weight_decay": arguments.weight_decay if decays else 0.0}
        for (share, decays), parameters in groups.items()
    ]
    return cls(parts, lr=rate, **options)


def finished_encoder(config: AudioEncoderConfig, weights: Mapping[str, Any]) -> AudioEncoder:
    """A plain `AudioEncoder` in evaluation mode, on the CPU, of a run's config and weights."""
    encoder = empty_encoder(config, AudioEncoder)
    shapes = {name: like.shape for name, like in encoder.state_dict().items()}  # `without_scalars` changes some
    weights = {name: w.detach().cpu().reshape(shapes.get(name, w.shape)) for name, w in weights.items()}
    encoder.load_state_dict(weights, strict=True, assign=True)
    return encoder.eval()
