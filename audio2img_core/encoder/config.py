"""The configuration that an audio encoder's checkpoint stores."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from transformers import PretrainedConfig, Wav2Vec2BertConfig
from transformers.activations import ACT2FN

from ..audio.mel import FEATURE_DIM, STACK
from ..checks import one_line
from ..targets import get_target
from .bounds import check_attention, check_backbone, check_number, shortened
from .heads import HeadConfig
from .windows import WindowConfig


class AudioEncoderConfig(PretrainedConfig):
    """Backbone, head, windows and target of an `AudioEncoder`.

    Args:
        backbone: `Wav2Vec2BertConfig` or its dict.
        head: `HeadConfig` or its dict.
        window: `WindowConfig` or its dict.
        target: name of the text-encoder space, see `targets.TARGETS`. It sets the width of the tokens.
        prepend_bos: whether the teacher's BOS token goes in front of the head's tokens to make a prompt.
        null_prompt: whether the checkpoint carries the teacher's empty prompt.
        training: how it was trained: free facts for people, shown by `audio2img info`.

    Raises:
        ValueError: unknown target, or unknown or impossible field of a part.
    """

    model_type = "audio2img_encoder"
    sub_configs = {"backbone": Wav2Vec2BertConfig}  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    has_no_defaults_at_init = False

    def __init__(
        self,
        backbone: Wav2Vec2BertConfig | dict[str, Any] | None = None,
        head: HeadConfig | dict[str, Any] | None = None,
        window: WindowConfig | dict[str, Any] | None = None,
        target: str = "sd15",
        prepend_bos: bool = True,
        null_prompt: bool = False,
        training: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        if isinstance(backbone, Wav2Vec2BertConfig):
            backbone = backbone.to_dict()  # the caller's stays as it is
        check_attention(kwargs)
        backbone = checked_backbone(_dictionary("backbone", backbone))
        # The head is ours: the adapter's fields in the backbone's config describe it, the backbone has none itself.
        backbone.add_adapter = False
        backbone.output_hidden_size = get_target(target).width
        self.backbone = backbone
        self.head = _part(HeadConfig, head)
        self.window = _part(WindowConfig, window)
        self.target = target
        for name, value in (("prepend_bos", prepend_bos), ("null_prompt", null_prompt)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, not {shortened(value)}")
        self.prepend_bos = prepend_bos
        self.null_prompt = null_prompt
        self.training = _dictionary("training", training)
        super().__init__(**kwargs)

    @property
    def initializer_range(self) -> float:
        """Standard deviation of the head's random weights, as the backbone's."""
        return self.backbone.initializer_range

    @property
    def token_dim(self) -> int:
        """Channels of one token."""
        return get_target(self.target).width

    @property
    def pooled_dim(self) -> int | None:
        """Channels of the pooled embedding, None where the target has none."""
        return get_target(self.target).pooled_width

    @property
    def fold(self) -> int:
        """Input features of 20 ms in one frame of the backbone: 1 = 50 frames a second, 2 = 25."""
        return self.backbone.feature_projection_input_dim // FEATURE_DIM

    @property
    def num_tokens(self) -> int:
        """Tokens that the head gives for one full window, without BOS."""
        if self.head.kind == "query":
            return self.head.num_tokens
        n = -(-self.window.size_frames // (STACK * self.fold))
        # Output length of the adapter's convolutions: its padding is stride // 2, see Wav2Vec2BertAdapterLayer.
        kernel, stride = self.backbone.adapter_kernel_size, self.backbone.adapter_stride
        for _ in range(self.backbone.num_adapter_layers):
            n = (n + 2 * (stride // 2) - kernel) // stride + 1
        return n

    @property
    def positions(self) -> slice:
        """Those of the prompt's 77 that the head's tokens stand for."""
        first = int(self.prepend_bos)
        return slice(first, first + self.num_tokens)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form that `config.json` and the single file's metadata hold."""
        output = super().to_dict()
        output["head"] = asdict(self.head)
        output["window"] = asdict(self.window)
        return output


def checked_backbone(values: dict[str, Any]) -> Wav2Vec2BertConfig:
    """The backbone's config of its fields; unknown names are kept, as transformers does.

    Raises:
        ValueError: a size beyond all bounds, an unknown activation, or another value that cannot be.
    """
    check_backbone(values)
    for name in ("hidden_act", "adapter_act"):
        if name in values and values[name] not in list(ACT2FN):
            raise ValueError(f"backbone {name} must be one of {', '.join(ACT2FN)}, not {shortened(values[name])}")
    for name in ("layer_norm_eps", "initializer_range"):
        check_number(values.get(name, 0.0), f"backbone {name}", 0.0, 1.0)
    try:
        return Wav2Vec2BertConfig(**values)
    except Exception as error:  # newer transformers have a class of their own for values of a wrong type
        raise ValueError(f"backbone: {one_line(str(error))}") from error


def _dictionary(name: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must be an object of names and values, not {shortened(value)}")
    return value or {}


def _part(cls: type, value: Any) -> Any:
    if value is None or isinstance(value, cls):
        return value if value is not None else cls()
    value = _dictionary(cls.__name__, value)
    names = {field.name for field in fields(cls)}
    unknown = sorted(set(value) - names)
    if unknown:
        raise ValueError(f"unknown {cls.__name__} fields {shortened(unknown)}: known are {sorted(names)}")
    return cls(**value)
