"""What a user asks for: one object from every mouth to the pipeline, checked before any model is loaded."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..checks import SettingError, check_choice, check_setting
from ..conditioning.modes import BLEND_MODES, WINDOW_MODES

if TYPE_CHECKING:
    from PIL import Image

MAX_SEED = 2**63 - 1  # of torch's generators
_OLD_NAMES = {"strength": "denoise"}


@dataclass(frozen=True)
class Sampler:
    """A diffusion model's own sampler settings."""

    steps: int = 20
    guidance: float = 7.5


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How images are generated from sounds.

    Raises:
        SettingError: A value that is not allowed, whatever the models are; it is a ValueError that names the field.
    """

    start: float = 0.0  # seconds to skip in each file
    duration: float | None = None  # seconds to read of each file; None = to its end
    prompt: str | None = None  # text to blend with the sound
    prompt_weight: float = 0.5  # share of the text: 0 = sound only, 1 = text only
    negative: str | None = None  # text to steer away from; None = the unconditional prompt
    sound_strength: float = 1.0  # 0 = the unconditional prompt, 1 = the sound, above 1 = beyond it
    blend_mode: str = "linear"  # see conditioning.blend
    windows: str = "average"  # see conditioning.prompt.condition
    steps: int | None = None  # sampler steps; None = the model's own: 12 for mini, else 20
    guidance: float | None = None  # classifier-free guidance; None = the model's own: 5 for mini, else 7.5
    seed: int | None = None  # seed of a clip's first image, the next ones count up; None = random
    count: int = 1  # images for each clip
    size: tuple[int, int] | None = None  # (width, height) in pixels; None = the model's own
    init_image: Image.Image | None = field(default=None, repr=False)  # image to start from
    denoise: float = 0.8  # how far to go from init_image, 0 to 1
    control_image: Image.Image | None = field(default=None, repr=False)  # image for the ControlNet
    control_scale: float = 1.0  # weight of the ControlNet

    def __post_init__(self) -> None:
        check_setting("start", self.start, least=0)
        if self.duration is not None:
            check_setting("duration", self.duration, above=0)
        for name in ("prompt", "negative"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise SettingError(name, f"must be text, not {getattr(self, name)!r}")
        check_setting("prompt_weight", self.prompt_weight, least=0, most=1)
        check_setting("sound_strength", self.sound_strength, least=0)
        check_choice("blend_mode", self.blend_mode, BLEND_MODES)
        check_choice("windows", self.windows, WINDOW_MODES)
        if self.steps is not None:
            check_setting("steps", self.steps, least=1, most=1000, whole=True)
        if self.guidance is not None:
            check_setting("guidance", self.guidance, least=0)
        check_setting("count", self.count, least=1, whole=True)
        if self.seed is not None:
            check_setting("seed", self.seed, least=0, most=MAX_SEED - self.count, whole=True)
        if self.size is not None and not _is_size(self.size):
            raise SettingError("size", f"must be a width and a height in pixels, not {self.size!r}")
        check_setting("denoise", self.denoise, above=0, most=1)
        if self.init_image is not None and self.steps is not None and int(self.steps * self.denoise) < 1:
            raise SettingError("denoise", f"leaves no step of {self.steps} to take: it is {self.denoise}")
        check_setting("control_scale", self.control_scale, least=0)

    @classmethod
    def of(cls, settings: GenerationSettings | None, options: Mapping[str, Any]) -> GenerationSettings:
        """`settings` with fields of `options` in place of its own; the old name `strength` of `denoise` is understood.

        Raises:
            SettingError: A value that is not allowed. TypeError: An option that is no field.
        """
        options = {_OLD_NAMES.get(name, name): value for name, value in options.items()}
        return cls(**options) if settings is None else replace(settings, **options)

    def completed(self, sampler: Sampler) -> GenerationSettings:
        """The same with a model's own steps and guidance, and a random seed, where they are None."""
        return replace(
            self,
            steps=sampler.steps if self.steps is None else self.steps,
            guidance=sampler.guidance if self.guidance is None else self.guidance,
            seed=secrets.randbits(32) if self.seed is None else self.seed,
        )

    def check_model(self, *, size_multiple: int | None, controlnet: bool) -> None:
        """Refuse what a diffusion model cannot do.

        Args:
            size_multiple: Number of pixels that width and height must be multiples of; None = unknown.
            controlnet: Whether the model has a ControlNet.

        Raises:
            SettingError: The size is no multiple, or a ControlNet and its image are not both there.
        """
        if self.size is not None and size_multiple is not None and any(side % size_multiple for side in self.size):
            raise SettingError(
                "size", f"must be multiples of {size_multiple} pixels, not {self.size[0]}x{self.size[1]}"
            )
        if controlnet and self.control_image is None:
            raise SettingError("controlnet", "needs a control image")
        if self.control_image is not None and not controlnet:
            raise SettingError("control_image", "needs a ControlNet")


def _is_size(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, int) and v > 0 for v in value)
