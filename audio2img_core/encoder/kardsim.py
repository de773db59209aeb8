"""Checkpoints of the project that this one started from, kardSIM/audio2img: plain `Wav2Vec2BertModel` with adapter."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor
from transformers import Wav2Vec2BertConfig

from ..checks import first_line
from ..targets import target_of_width
from .config import AudioEncoderConfig
from .heads import INITIAL_LOGIT_SCALE
from .windows import WindowConfig

# Its recipe (the training notebook): the first 375 mel frames of the clip, padded to whole stacked frames,
# normalised over the whole clip; inference sees the padding. `facebook/w2v-bert-2.0` pads with 1.0.
_WINDOW = {"seconds": 3.75, "normalize": "clip", "padding": "constant", "pad_value": 1.0}


def kardsim_config(name_or_path: str | os.PathLike[str], backbone: Wav2Vec2BertConfig) -> AudioEncoderConfig:
    """Our config of a plain `Wav2Vec2BertModel` folder or hub id with the config `backbone`.

    Raises:
        ValueError: it has no adapter, its width is no target's, or its preprocessor_config.json is broken.
    """
    if not backbone.add_adapter:
        raise ValueError(
            f"{name_or_path}: a Wav2Vec2-BERT backbone without adapter gives no prompt tokens; training starts from it"
        )
    width = backbone.output_hidden_size or backbone.hidden_size
    target = target_of_width(width)
    if target is None:
        raise ValueError(f"{name_or_path}: its tokens are {width} wide, which no target without pooled embedding takes")
    return AudioEncoderConfig(
        backbone=Wav2Vec2BertConfig(**backbone.to_dict()),
        head={"kind": "conv"},
        window=WindowConfig(**{**_WINDOW, **_padding(name_or_path)}),
        target=target.name,
        training={"source": str(name_or_path), "recipe": "kardSIM/audio2img"},
    )


def _padding(name_or_path: str | os.PathLike[str]) -> dict[str, float]:
    """The padding value of the feature extractor that lies beside the weights, where there is one."""
    file = Path(name_or_path) / "preprocessor_config.json"
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8")).get("padding_value", 0.0)
        return {"pad_value": float(value)}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not a feature extractor's JSON ({first_line(error)})") from error


def kardsim_name(ours: str) -> str | None:
    """The name there of a weight of an `AudioEncoder` with a conv head, None of what it lacks."""
    part, _, name = ours.partition(".")
    return name if part in ("backbone", "head") else None


def kardsim_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names that they have in an `AudioEncoder` with a conv head.

    Its temperature was fixed at 0.15, and there was no bias.
    """
    ours = {
        f"head.{name}" if name.startswith("adapter.") else f"backbone.{name}": tensor
        for name, tensor in weights.items()
    }
    dtype = next(iter(weights.values())).dtype
    ours["logit_scale"] = torch.tensor(INITIAL_LOGIT_SCALE, dtype=dtype)
    ours["logit_bias"] = torch.tensor(0.0, dtype=dtype)
    return ours
