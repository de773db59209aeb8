"""The teacher: a diffusion model's own text encoders."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from audio2img_core.checks import first_line, positive_int
from audio2img_core.devices import resolve_device
from audio2img_core.generation.loading import load_mini_diffusion
from audio2img_core.mini import names as mini
from audio2img_core.targets import PROMPT_TOKENS, Target, get_target, target_of_width

OnStep = Callable[[int, int], None]

_PARTS = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))
_SMALL_FILES = ["text_encoder/config.json", "text_encoder_2/config.json", "tokenizer/*", "tokenizer_2/*"]
_WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
# Weights that the published encoders carry and that no hidden state depends on.
_IDLE_WEIGHTS = ("position_ids", "text_projection.weight")
# What of a CLIPTextConfig decides its output: the rest (names, versions) must not make another teacher of it.
_CONFIG = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
_CONFIG += ("layer_norm_eps", "eos_token_id", "projection_dim", "use_attention_mask")
_PROBE = "A DOG's bark, 2nd-hand rain_fall...  caf\u00e9 \u96e8 \U0001f415 <|endoftext|> end"


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher says of B captions."""

    tokens: Tensor  # [B, 77, D] float32
    pooled: Tensor | None  # [B, P] float32, None where the target has none
    mask: Tensor  # [B, 77] bool: True for BOS, the words and the first EOS, False for padding


class Teacher:
    """The text encoders of one target, frozen.

    Args:
        target: a name of `audio2img_core.targets.TARGETS`.
        tokenizers: the `CLIPTokenizer` of each text encoder; two for `sdxl`.
        encoders: the text encoders, in the same order; the last of `sdxl` is a `CLIPTextModelWithProjection`.

    Raises:
        ValueError: unknown target, encoders that do not fit it, or a tokenizer of another length than 77.
    """

    def __init__(self, target: str, tokenizers: Sequence[Any], encoders: Sequence[Any]):
        self.target = get_target(target)
        self.tokenizers, self.encoders = list(tokenizers), [encoder.eval() for encoder in encoders]
        for encoder in self.encoders:
            encoder.requires_grad_(False)
        _check_configs(self.target, [encoder.config for encoder in self.encoders], "the teacher")
        for tokenizer in self.tokenizers:
            if tokenizer.model_max_length != PROMPT_TOKENS:
                raise ValueError(
                    f"the teacher's tokenizer has {tokenizer.model_max_length} tokens, not {PROMPT_TOKENS}"
                )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        target: str,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Teacher:
        """Load the tokenizers and text encoders of a diffusion model, and nothing else.

        Args:
            name_or_path: "mini", a diffusers folder or a hub id.
            target: the target to train for; it decides which text encoders are read.
            device: None = the GPU where there is one.
            dtype: of the weights.

        Raises:
            FileNotFoundError: No such folder or model.
            ValueError: The text encoders do not fit the target (known before their weights are read), or weights are
                missing or not safetensors.
        """
        wanted, device = get_target(target), resolve_device(device)
        if name_or_path == mini.NAME:
            diffusion = load_mini_diffusion()
            encoders = [diffusion.text_encoder.to(device=device, dtype=dtype)]
            return cls(target, [diffusion.tokenizer], encoders)
        folder = _local_folder(name_or_path, _SMALL_FILES)
        parts = [part for part in _PARTS if part == _PARTS[0] or (folder / part[0] / "config.json").is_file()]
        for encoder, tokenizer in parts:
            if not (folder / encoder / "config.json").is_file():
                raise FileNotFoundError(f"{name_or_path}: no {encoder}/config.json in this diffusers model")
            if not any((folder / tokenizer / file).is_file() for file in ("tokenizer.json", "vocab.json")):
                raise FileNotFoundError(f"{name_or_path}: no {tokenizer}/vocab.json in this diffusers model")
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        try:
            configs = [CLIPTextConfig.from_pretrained(folder / encoder) for encoder, _ in parts]
            _check_configs(wanted, configs, name_or_path)
            tokenizers = [CLIPTokenizer.from_pretrained(folder / tokenizer) for _, tokenizer in parts]
        except OSError as error:
            raise ValueError(f"{name_or_path}: cannot be loaded as a teacher: {first_line(error)}") from error
        folder = _local_folder(name_or_path, [f"{encoder}/{file}" for encoder, _ in parts for file in _WEIGHTS])
        classes = [CLIPTextModel, CLIPTextModelWithProjection]
        encoders = [
            _load_encoder(kind, folder / encoder, dtype).to(device)
            for kind, (encoder, _) in zip(classes, parts, strict=False)
        ]
        return cls(target, tokenizers, encoders)

    @property
    def device(self) -> torch.device:
        """Where the text encoders are."""
        return self.encoders[0].device

    def to(self, device: torch.device | str) -> Teacher:
        """Move the text encoders; returns self."""
        for encoder in self.encoders:
            encoder.to(device)
        return self

    @torch.no_grad()
    def encode(self, captions: Sequence[str], *, batch_size: int = 64, on_step: OnStep | None = None) -> TeacherOutput:
        """Encode captions as the target's diffusers pipeline does.

        Args:
            captions: B texts. Those longer than 77 tokens are cut, and the last token is then EOS.
            batch_size: captions encoded at once.
            on_step: called as on_step(captions done, captions in all) after each batch.

        Returns:
            TeacherOutput on the teacher's device, in float32 whatever the weights' dtype.

        Raises:
            ValueError: `captions` is no sequence of strings, or the batch size is not positive.
        """
        if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError("captions must be a sequence of strings")
        batch_size, captions = positive_int(batch_size, "batch_size"), list(captions)
        outputs: list[TeacherOutput] = []
        for first in range(0, len(captions), batch_size):
            outputs.append(self._encode_batch(captions[first : first + batch_size]))
            if on_step is not None:
                on_step(min(first + batch_size, len(captions)), len(captions))
        if not outputs:
            like = self.null
            return TeacherOutput(like.tokens[:0], None if like.pooled is None else like.pooled[:0], like.mask[:0])
        pooled = [output.pooled for output in outputs if output.pooled is not None]
        return TeacherOutput(
            tokens=torch.cat([output.tokens for output in outputs]),
            pooled=torch.cat(pooled) if pooled else None,
            mask=torch.cat([output.mask for output in outputs]),
        )

    @cached_property
    def null(self) -> TeacherOutput:
        """The unconditional prompt: tokens [1, 77, D], pooled [1, P] or None, mask [1, 77]."""
        return self.encode([""])

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell teachers apart by target, config, weights (with dtype) and tokenizer."""
        digest = hashlib.sha256(self.target.name.encode())
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            state = [{name: getattr(encoder.config, name, None) for name in _CONFIG}]
            # CLIP's vocabulary lists its merges in their order; a probe shows how text is split before them.
            state += [tokenizer.get_vocab(), tokenizer(_PROBE).input_ids]
            digest.update(json.dumps(state, sort_keys=True).encode())
            # Earlier releases of transformers nest CLIPTextModel in itself and keep its positions among the weights.
            weights = {name.removeprefix("text_model."): weight for name, weight in encoder.state_dict().items()}
            for name, weight in sorted(weights.items()):
                if not name.endswith("position_ids"):
                    digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
                    digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def _encode_batch(self, captions: list[str]) -> TeacherOutput:
        states: list[Tensor] = []
        pooled: Tensor | None = None
        mask = torch.zeros(0)
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            inputs = tokenizer(
                captions, padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt"
            ).to(self.device)
            mask = mask if len(states) else inputs.attention_mask.bool()
            if self.target.pooled_width is not None:  # StableDiffusionXLPipeline.encode_prompt
                output = encoder(inputs.input_ids, output_hidden_states=True)
                states.append(output.hidden_states[-2].float())
                pooled = output[0].float() if output[0].ndim == 2 else pooled
            else:  # StableDiffusionPipeline.encode_prompt
                masked = getattr(encoder.config, "use_attention_mask", False)
                states.append(encoder(inputs.input_ids, inputs.attention_mask if masked else None)[0].float())
        return TeacherOutput(torch.cat(states, -1), pooled, mask)


def _check_configs(target: Target, configs: Sequence[Any], name: object) -> None:
    """Refuse text encoders of another width or number than the target's."""
    width, pooled = sum(config.hidden_size for config in configs), len(configs) > 1
    pooled_width = configs[-1].projection_dim if pooled else None
    if (width, pooled_width) == (target.width, target.pooled_width):
        return
    widths = " + ".join(str(config.hidden_size) for config in configs)
    has = f"{'text encoders' if pooled else 'a text encoder'} of width {widths}"
    has += f" and pooled width {pooled_width}" if pooled else ""
    wants = f"width {target.width}" + (f" and pooled width {target.pooled_width}" if target.pooled_width else "")
    fitting = target_of_width(width, pooled=pooled)
    hint = f"train for the target {fitting.name!r}, or " if fitting and fitting != target else ""
    raise ValueError(
        f"{name}: {has} cannot teach the target {target.name!r} ({wants}): {hint}name a teacher of {target.family}"
    )


def _local_folder(name_or_path: str | os.PathLike[str], patterns: list[str]) -> Path:
    """The folder itself, or a hub id's snapshot with the files of these patterns."""
    path, name = Path(name_or_path).expanduser(), str(name_or_path)
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{name}: a teacher is a diffusers folder or a hub id, not a single file")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"{name}: no such teacher; allowed are 'mini', a diffusers folder or a hub id owner/name"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{name}: no such folder, and not found on the hub: {first_line(error)}") from error


def _load_encoder(kind: type, folder: Path, dtype: torch.dtype) -> Any:
    """A text encoder with all its weights and no others."""
    try:
        encoder, info = kind.from_pretrained(folder, use_safetensors=True, dtype=dtype, output_loading_info=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: cannot be loaded as a text encoder: {first_line(error)}") from error
    extra = [name for name in info["unexpected_keys"] if not name.endswith(_IDLE_WEIGHTS)]
    for keys, what in ((info["missing_keys"], "lacks"), (extra, "has unknown")):
        if keys:
            raise ValueError(f"{folder}: the text encoder {what} weights, such as {min(keys)}")
    return encoder
