"""From sounds to images: an audio encoder in front of any Stable Diffusion pipeline."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..audio.excerpt import Excerpt
from ..audio.io import SAMPLE_RATE
from ..audio.waveform import AudioInput, read_clips
from ..conditioning.blend import blend
from ..conditioning.prompt import Conditioning, condition, null_conditioning, to_diffusers
from ..conditioning.text import encode_text, null_conditioning_of
from ..conditioning.zero_shot import Heard, caption_scores, check_captions, nearest_captions
from ..devices import diffusion_dtype, encoder_dtype, resolve_device
from ..encoder.checkpoint import read_config
from ..encoder.config import AudioEncoderConfig
from ..encoder.embeddings import AudioEmbeddings
from ..encoder.model import AudioEncoder
from ..mini import names as mini
from ..targets import check_fits
from .families import check_target_before_loading, size_multiple_before_loading, takes_pooled, token_width
from .loading import as_image_to_image, find_diffusion, load_diffusion
from .settings import GenerationSettings, Sampler

CACHED_CAPTIONS = 256  # prompts of captions that `hear` keeps: 20 MB for mini, 160 MB for SDXL


@dataclass(frozen=True)
class AudioToImageOutput:
    """Images in the order of the clips, `count` of each in a row."""

    images: list[Any]  # PIL images
    seeds: list[int]  # the seed of each image
    clips: list[int]  # the clip of each image
    embeddings: AudioEmbeddings
    settings: GenerationSettings  # with the model's own values and the random seed where none were given


class AudioToImagePipeline:
    """Sound in, pictures out.

    Args:
        encoder: the audio encoder.
        diffusion: a diffusers pipeline of the Stable Diffusion 1.x, 2.x or XL kind, with ControlNet or without.

    Raises:
        ValueError: the encoder's target does not fit the diffusion model; the message says what would.
    """

    def __init__(self, encoder: AudioEncoder, diffusion: Any):
        check_fits(encoder.config.target, token_width(diffusion), pooled=takes_pooled(diffusion))
        self.encoder = encoder
        self.diffusion = diffusion
        diffusion.set_progress_bar_config(disable=True)
        self.defaults = Sampler()
        self.captions: tuple[str, ...] = ()  # what `hear` chooses from by default: mini alone has captions
        self.names: dict[str, str] = {}  # of the models, as `from_pretrained` was given them
        self._prompt_of = functools.lru_cache(maxsize=CACHED_CAPTIONS)(self._encode_caption)

    @classmethod
    def from_pretrained(
        cls,
        encoder: str | os.PathLike[str] = mini.NAME,
        diffusion: str | os.PathLike[str] = mini.NAME,
        *,
        controlnet: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        settings: GenerationSettings | None = None,
    ) -> AudioToImagePipeline:
        """Load both models.

        Args:
            encoder: "mini", or a checkpoint as `AudioEncoder.from_pretrained` takes it.
            diffusion: "mini", or a diffusers folder, a single `.safetensors` file, or a hub id.
            controlnet: Folder or hub id of a ControlNet.
            device: Device of both models; None = the GPU where there is one.
            dtype: Dtype of both; None = bfloat16 for the encoder where the device computes with it (never for "mini"),
                and float16 for the diffusion model on a GPU; else float32. "int8" is for the encoder's weights alone.
            settings: Settings to compare with the models' config files before any weights are loaded.

        Raises:
            FileNotFoundError, ValueError: As the two loaders; or the models do not fit each other, or the settings.
        """
        device = resolve_device(device)
        dtypes = encoder_dtype(device, encoder, dtype), diffusion_dtype(device, dtype)
        find_diffusion(diffusion, controlnet)
        defaults = Sampler(*mini.SAMPLER) if diffusion == mini.NAME else Sampler()
        if settings is not None:
            multiple = size_multiple_before_loading(diffusion)
            settings.completed(defaults).check_model(size_multiple=multiple, controlnet=controlnet is not None)
        if encoder != mini.NAME:
            config = read_config(encoder)
            if isinstance(config, AudioEncoderConfig):
                check_target_before_loading(config.target, diffusion)
        pipeline = cls(*load_models(encoder, diffusion, controlnet, dtypes)).to(device)
        pipeline.defaults = defaults
        pipeline.captions = mini.captions() if diffusion == mini.NAME else ()
        names = {"encoder": encoder, "diffusion": diffusion, "controlnet": controlnet}
        pipeline.names = {part: str(name) for part, name in names.items() if name is not None}
        return pipeline

    def to(self, device: torch.device | str) -> AudioToImagePipeline:
        """Move both models; returns self."""
        self.encoder.to(device)  # pyright: ignore[reportArgumentType]
        self.diffusion.to(device)
        return self

    def __call__(
        self,
        sounds: AudioInput | Sequence[AudioInput] | AudioEmbeddings,
        settings: GenerationSettings | None = None,
        *,
        on_step: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> AudioToImageOutput:
        """Generate images from sounds.

        Args:
            sounds: One or more of: a file's path, (waveform [C, T], sample_rate), ComfyUI's AUDIO mapping; or
                `AudioEmbeddings` made before.
            settings: How to generate; None = the defaults.
            on_step: Called as on_step(sampler steps done, steps in all).
            **options: Fields of `GenerationSettings`, in place of those of `settings`.

        Raises:
            ValueError: A value that is not allowed, or a sound that cannot be decoded.
            FileNotFoundError: No such sound file.
            TypeError: An option that is no field of `GenerationSettings`.
        """
        settings = self.complete(GenerationSettings.of(settings, options))
        heard = sounds
        if not isinstance(heard, AudioEmbeddings):
            heard = self.encode(heard, start=settings.start, duration=settings.duration)
        positive, negative = self.condition(heard, settings)
        rows, count = len(positive.tokens), settings.count
        assert settings.seed is not None
        seeds = [settings.seed + k for _ in range(rows) for k in range(count)]
        prompts = to_diffusers(positive.repeat(count), negative.expand(rows).repeat(count))
        images = self._sample(prompts, seeds, settings, on_step)
        clips = [row if settings.windows != "keep" else heard.clips[row] for row in range(rows) for _ in range(count)]
        return AudioToImageOutput(images=images, seeds=seeds, clips=clips, embeddings=heard, settings=settings)

    def complete(self, settings: GenerationSettings) -> GenerationSettings:
        """The same settings with this model's own values and a random seed where none are given.

        Raises:
            SettingError: The models cannot do what the settings say.
        """
        settings = settings.completed(self.defaults)
        has_controlnet = getattr(self.diffusion, "controlnet", None) is not None
        settings.check_model(size_multiple=self.diffusion.vae_scale_factor, controlnet=has_controlnet)
        return settings

    def encode(
        self,
        sounds: AudioInput | Sequence[AudioInput],
        *,
        start: float = 0.0,
        duration: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> AudioEmbeddings:
        """What the encoder hears in one or more sounds; see `__call__` for what a sound can be."""
        each: list[Any] = [sounds]
        if isinstance(sounds, Sequence) and not isinstance(sounds, (str, tuple)):
            each = list(sounds)
        excerpt = Excerpt(start, duration)
        clips: list[Tensor] = []
        names: list[str] = []
        for sound in each:
            clips += read_clips(sound, excerpt)
            named = isinstance(sound, (str, os.PathLike))
            names += [str(sound) if named else f"clip {number}" for number in range(len(names), len(clips))]
        return self.encoder.encode(clips, SAMPLE_RATE, names=names, on_step=on_step)

    def hear(
        self,
        sounds: AudioInput | Sequence[AudioInput] | AudioEmbeddings,
        captions: Sequence[str] | None = None,
        *,
        top: int = 3,
        start: float = 0.0,
        duration: float | None = None,
    ) -> list[list[Heard]]:
        """What the encoder hears, in words.

        Args:
            sounds: as `__call__` takes them.
            captions: to choose from; None = the mini model's own, which no other model has.
            top: how many of the best are given.

        Returns:
            For each clip the nearest captions, best first, with scores that sum to 1 over all captions.

        Raises:
            ValueError: no captions, or a diffusion model without text encoder.
        """
        captions = check_captions(captions if captions is not None else self.captions)
        heard = sounds if isinstance(sounds, AudioEmbeddings) else self.encode(sounds, start=start, duration=duration)
        scores = caption_scores(heard, torch.stack([self._prompt_of(caption) for caption in captions]))
        return nearest_captions(scores, captions, top=top)

    def condition(
        self, heard: AudioEmbeddings, settings: GenerationSettings | None = None, **options: Any
    ) -> tuple[Conditioning, Conditioning]:
        """Positive and negative conditioning of embeddings, blended with text; arguments as of `__call__`."""
        settings = GenerationSettings.of(settings, options)
        check_fits(heard.space.target, token_width(self.diffusion), pooled=takes_pooled(self.diffusion))
        if heard.space.null_tokens is None:
            null = null_conditioning_of(self.diffusion)
        else:
            null = null_conditioning(heard.space)
        strength, windows = settings.sound_strength, settings.windows
        positive, empty = condition(heard, sound_strength=strength, windows=windows, null=null)
        device = positive.tokens.device
        if settings.prompt:
            text = encode_text(self.diffusion, settings.prompt).to(device)
            positive = blend(positive, text, settings.prompt_weight, mode=settings.blend_mode, null=null)
        return positive, encode_text(self.diffusion, settings.negative).to(device) if settings.negative else empty

    def _sample(
        self,
        prompts: Mapping[str, Tensor],
        seeds: Sequence[int],
        settings: GenerationSettings,
        on_step: Callable[[int, int], None] | None,
    ) -> list[Any]:
        """Run the diffusers pipeline: an image for each row of the prompts and each seed."""
        size, init_image = settings.size, settings.init_image
        options: dict[str, Any] = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance}
        if init_image is not None:
            options |= {"image": _sized(init_image, size), "strength": settings.denoise}
        if settings.control_image is not None:
            beside = size if init_image is None else options["image"].size
            options["control_image" if init_image is not None else "image"] = _sized(settings.control_image, beside)
            options["controlnet_conditioning_scale"] = settings.control_scale
        if size is not None and (init_image is None or settings.control_image is not None):
            options |= {"width": size[0], "height": size[1]}
        weights = self.diffusion.unet
        options |= {name: tensor.to(weights.device, weights.dtype) for name, tensor in prompts.items()}
        # On the CPU, so that a seed gives one image on every device.
        options["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        model = self.diffusion if init_image is None else as_image_to_image(self.diffusion)
        model.set_progress_bar_config(disable=True)
        return model(**options, callback_on_step_end=_reporter(on_step)).images

    def _encode_caption(self, caption: str) -> Tensor:
        """The text encoder's prompt [77, D] of a caption, on the CPU."""
        return encode_text(self.diffusion, caption).tokens[0].cpu()


def load_models(
    encoder: str | os.PathLike[str],
    diffusion: str | os.PathLike[str],
    controlnet: str | os.PathLike[str] | None,
    dtypes: tuple[torch.dtype | str, torch.dtype],
) -> tuple[AudioEncoder, Any]:
    """Load the weights of both models, with the dtypes of the encoder and of the diffusion model."""
    return (
        AudioEncoder.from_pretrained(encoder, dtype=dtypes[0]),
        load_diffusion(diffusion, controlnet=controlnet, dtype=dtypes[1]),
    )


def _sized(image: Any, size: tuple[int, int] | None) -> Any:
    image = image.convert("RGB")
    if size is None:
        # The autoencoder works in blocks of 8 pixels.
        width, height = (max(8, side - side % 8) for side in image.size)
        size = width, height
    return image if image.size == size else image.resize(size)


def _reporter(on_step: Callable[[int, int], None] | None) -> Any:
    if on_step is None:
        return None

    def report(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        on_step(step + 1, pipeline.num_timesteps)
        return tensors

    return report
