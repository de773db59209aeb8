"""What a checkpoint's config may ask for: far beyond every model there is, and too little to harm a machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..audio.mel import FEATURE_DIM

MAX_WINDOW_SECONDS = 3600.0  # of one window; attention over an hour needs more memory than any machine has
_WIDTH, _LAYERS, _POSITIONS, _KERNEL = 16_384, 256, 20_000, 1023
# Fields of `Wav2Vec2BertConfig` that say how much is built, and the least and the most of them.
_BACKBONE: dict[str, tuple[int, int]] = {
    "feature_projection_input_dim": (FEATURE_DIM, 8 * FEATURE_DIM),
    "hidden_size": (1, _WIDTH),
    "output_hidden_size": (1, _WIDTH),
    "intermediate_size": (1, 4 * _WIDTH),
    "num_hidden_layers": (1, _LAYERS),
    "num_attention_heads": (1, _WIDTH),
    "num_adapter_layers": (0, _LAYERS),
    "adapter_kernel_size": (1, _KERNEL),
    "adapter_stride": (1, _KERNEL),
    "conv_depthwise_kernel_size": (1, _KERNEL),
    "max_source_positions": (1, _POSITIONS),
    "left_max_position_embeddings": (0, _POSITIONS),
    "right_max_position_embeddings": (0, _POSITIONS),
}
_HEAD = {"num_tokens": _POSITIONS, "width": _WIDTH, "num_layers": _LAYERS, "num_heads": _WIDTH}
_ATTENTION = (None, "eager", "sdpa", "flash_attention_2")


def check_backbone(config: Mapping[str, Any]) -> None:
    """Refuse a backbone that is too large to be one, or that names code.

    Args:
        config: `Wav2Vec2BertConfig` as a dict; what it lacks has its default.

    Raises:
        ValueError: a size that is none or is out of bounds, or an attention that transformers would download.
    """
    for name, (least, most) in _BACKBONE.items():
        value = config.get(name, least)
        if name == "output_hidden_size" and value is None:
            continue
        check_size(value, f"backbone {name}", most, least=least)
    features = config.get("feature_projection_input_dim", FEATURE_DIM)
    if features % FEATURE_DIM:
        raise ValueError(f"backbone feature_projection_input_dim {features} must be a multiple of {FEATURE_DIM}")
    check_attention(config)
    width, heads = config.get("hidden_size", 1024), config.get("num_attention_heads", 16)
    if width % heads:
        raise ValueError(f"backbone hidden_size {width} must be a multiple of num_attention_heads {heads}")


def check_head(config: Any) -> None:
    """Refuse a `HeadConfig` whose fields are no sizes or out of bounds.

    Raises:
        ValueError: the message names the field and what is allowed.
    """
    for name, most in _HEAD.items():
        check_size(getattr(config, name), f"head {name}", most)


def check_attention(config: Mapping[str, Any]) -> None:
    """Refuse an attention by the name of a repository on the hub, whose code transformers would load and run.

    Raises:
        ValueError: the config names one that is not built in.
    """
    for name in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        if config.get(name) not in _ATTENTION:
            allowed = ", ".join(filter(None, _ATTENTION))
            raise ValueError(f"{name} {config[name]!r} is code from elsewhere; allowed: {allowed}")


def check_size(value: Any, what: str, most: int, *, least: int = 1) -> None:
    """Refuse what is no whole number of `least` to `most`.

    Raises:
        ValueError: the message names it and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        allowed = f"must be {least}" if least == most else f"must be a whole number from {least} to {most}"
        raise ValueError(f"{what} {allowed}, not {shortened(value)}")


def check_number(value: Any, what: str, least: float, most: float) -> None:
    """Refuse what is no finite number of `least` to `most`.

    Raises:
        ValueError: the message names it and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        words = f" from {least:g} to {most:g}" if math.isfinite(most) and math.isfinite(least) else ""
        raise ValueError(f"{what} must be a finite number{words}, not {shortened(value)}")


def shortened(value: Any) -> str:
    """A value as messages show it: what a stranger wrote may be megabytes long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
