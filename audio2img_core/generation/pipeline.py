"""From sounds to pictures: an audio encoder in front of any Stable Diffusion pipeline."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
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
from ..conditioning.zero_shot import Heard, caption_scores, nearest_captions
from ..devices import diffusion_dtype, encoder_dtype, resolve_device
from ..encoder.checkpoint import read_config
from ..encoder.config import AudioEncoderConfig
from ..encoder.embeddings import AudioEmbeddings
from ..encoder.model import AudioEncoder
from ..mini import names as mini
from ..targets import check_fits
from .loading import as_image_to_image, check_fits_before_loading, load_diffusion, takes_pooled, token_width

_MAX_SEED = 2**63 - 1  # of torch's generators


@dataclass(frozen=True)
class Sampler:
    """How a diffusion model draws where nothing is said."""

    steps: int = 20
    guidance: float = 7.5


@dataclass(frozen=True)
class AudioToImageOutput:
    """Pictures in the order of the clips, `count` of each in a row."""

    images: list[Any]  # PIL images
    seeds: list[int]  # the seed of each picture
    clips: list[int]  # the clip of each picture
    embeddings: AudioEmbeddings


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
        self.captions: tuple[str, ...] = ()  # what `hear` chooses from where it is told nothing: mini alone has some
        self._said: dict[str, Tensor] = {}  # prompts of captions that were asked for

    @classmethod
    def from_pretrained(
        cls,
        encoder: str | os.PathLike[str] = mini.NAME,
        diffusion: str | os.PathLike[str] = mini.NAME,
        *,
        controlnet: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> AudioToImagePipeline:
        """Load both models.

        Args:
            encoder: "mini", or a checkpoint as `AudioEncoder.from_pretrained` takes it.
            diffusion: "mini", or a diffusers folder, a single `.safetensors` file, or a hub id.
            controlnet: folder or hub id of a ControlNet.
            device: None = the GPU where there is one.
            dtype: of both; None = bfloat16 for the encoder where the device computes with it (never for "mini"), and
                for the diffusion model float16 on a GPU; else float32. "int8": of the encoder's weights alone.

        Raises:
            FileNotFoundError, ValueError: as the two loaders; and where the two do not fit each other.
        """
        device = resolve_device(device)
        dtypes = encoder_dtype(device, encoder, dtype), diffusion_dtype(device, dtype)
        if encoder != mini.NAME:
            config = read_config(encoder)
            if isinstance(config, AudioEncoderConfig):
                check_fits_before_loading(config.target, diffusion)
        heard = AudioEncoder.from_pretrained(encoder, dtype=dtypes[0])
        drawn = load_diffusion(diffusion, controlnet=controlnet, dtype=dtypes[1])
        pipeline = cls(heard, drawn).to(device)
        if diffusion == mini.NAME:
            pipeline.defaults = Sampler(*mini.SAMPLER)
            pipeline.captions = mini.captions()
        return pipeline

    def to(self, device: torch.device | str) -> AudioToImagePipeline:
        """Move both models; returns self."""
        self.encoder.to(device)
        self.diffusion.to(device)
        return self

    def __call__(
        self,
        sounds: AudioInput | Sequence[AudioInput] | AudioEmbeddings,
        *,
        prompt: str | None = None,
        prompt_weight: float = 0.5,
        negative: str | None = None,
        sound_strength: float = 1.0,
        blend_mode: str = "linear",
        windows: str = "average",
        start: float = 0.0,
        duration: float | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        count: int = 1,
        size: tuple[int, int] | None = None,
        init_image: Any = None,
        strength: float = 0.8,
        control_image: Any = None,
        control_scale: float = 1.0,
        on_step: Callable[[int, int], None] | None = None,
    ) -> AudioToImageOutput:
        """Draw what is heard.

        Args:
            sounds: one or more of: a file's path, (waveform [C, T], sample_rate), ComfyUI's AUDIO mapping; or
                `AudioEmbeddings` made before.
            prompt: text mixed with the sound, `prompt_weight` of it (0 = sound only, 1 = text only).
            negative: text to steer away from; None = the empty prompt.
            sound_strength: 0 = the empty prompt, 1 = the sound, above 1 = beyond it.
            blend_mode, windows: see `conditioning.blend` and `conditioning.condition`.
            start, duration: seconds to read of each file; None = to its end.
            steps, guidance: of the sampler; None = 12 and 5 for the mini model, 20 and 7.5 for others.
            seed: of the first picture of each clip, the next ones count up; None = by chance.
            count: pictures a clip.
            size: (width, height) in pixels, multiples of 8; None = the model's own.
            init_image, strength: PIL image to start from, and how far to go from it (0 to 1).
            control_image, control_scale: PIL image for the ControlNet, and its weight.
            on_step: called as on_step(sampler steps done, steps in all).

        Raises:
            ValueError: an impossible value; FileNotFoundError: no such sound file.
        """
        steps = self.defaults.steps if steps is None else steps
        guidance = self.defaults.guidance if guidance is None else guidance
        options = self._sampler_options(steps, guidance, size, init_image, strength, control_image, control_scale)
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        if seed is not None and not 0 <= seed <= _MAX_SEED - count:
            raise ValueError(f"seed must be between 0 and {_MAX_SEED}, not {seed}")
        heard = sounds if isinstance(sounds, AudioEmbeddings) else self.encode(sounds, start=start, duration=duration)
        positive, negative_conditioning = self.condition(
            heard,
            prompt=prompt,
            prompt_weight=prompt_weight,
            negative=negative,
            sound_strength=sound_strength,
            blend_mode=blend_mode,
            windows=windows,
        )
        rows = len(positive.tokens)
        seed = secrets.randbits(32) if seed is None else seed
        seeds = [seed + k for _ in range(rows) for k in range(count)]
        # On the CPU, so that a seed gives one picture on every device.
        generators = [torch.Generator("cpu").manual_seed(s) for s in seeds]
        negative_rows = Conditioning(
            negative_conditioning.tokens.expand(rows, -1, -1),
            None if negative_conditioning.pooled is None else negative_conditioning.pooled.expand(rows, -1),
        )
        weights = self.diffusion.unet
        prompts = to_diffusers(positive.repeat(count), negative_rows.repeat(count))
        prompts = {name: tensor.to(weights.device, weights.dtype) for name, tensor in prompts.items()}
        model = as_image_to_image(self.diffusion) if init_image is not None else self.diffusion
        model.set_progress_bar_config(disable=True)
        images = model(**prompts, **options, generator=generators, callback_on_step_end=_reporter(on_step)).images
        clips = [row if windows != "keep" else heard.clips[row] for row in range(rows) for _ in range(count)]
        return AudioToImageOutput(images=images, seeds=seeds, clips=clips, embeddings=heard)

    def encode(
        self,
        sounds: AudioInput | Sequence[AudioInput],
        *,
        start: float = 0.0,
        duration: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> AudioEmbeddings:
        """What the encoder hears in one or more sounds; see `__call__` for what a sound can be."""
        several = isinstance(sounds, Sequence) and not isinstance(sounds, (str, tuple))
        excerpt = Excerpt(start, duration)
        clips: list[Tensor] = []
        names: list[str] = []
        for sound in sounds if several else [sounds]:
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
        captions = list(captions if captions is not None else self.captions)
        if not captions:
            raise ValueError("name the captions to choose from: only the mini model has some of its own")
        heard = sounds if isinstance(sounds, AudioEmbeddings) else self.encode(sounds, start=start, duration=duration)
        missing = [caption for caption in captions if caption not in self._said]
        self._said |= {caption: encode_text(self.diffusion, caption).tokens[0].cpu() for caption in missing}
        said = torch.stack([self._said[caption] for caption in captions])
        scores = caption_scores(heard, said)
        return nearest_captions(scores, captions, top=top)

    def condition(
        self,
        heard: AudioEmbeddings,
        *,
        prompt: str | None = None,
        prompt_weight: float = 0.5,
        negative: str | None = None,
        sound_strength: float = 1.0,
        blend_mode: str = "linear",
        windows: str = "average",
    ) -> tuple[Conditioning, Conditioning]:
        """Positive and negative conditioning of embeddings, mixed with text; see `__call__`."""
        check_fits(heard.space.target, token_width(self.diffusion), pooled=takes_pooled(self.diffusion))
        if heard.space.null_tokens is None:
            null = null_conditioning_of(self.diffusion)
        else:
            null = null_conditioning(heard.space)
        positive, empty = condition(heard, sound_strength=sound_strength, windows=windows, null=null)
        device = positive.tokens.device
        if prompt:
            text = encode_text(self.diffusion, prompt).to(device)
            positive = blend(positive, text, prompt_weight, mode=blend_mode, null=null)
        return positive, encode_text(self.diffusion, negative).to(device) if negative else empty

    def _sampler_options(
        self,
        steps: int,
        guidance: float,
        size: tuple[int, int] | None,
        init_image: Any,
        strength: float,
        control_image: Any,
        control_scale: float,
    ) -> dict[str, Any]:
        """The diffusers pipeline's arguments, checked before anything runs."""
        if not 1 <= steps <= 1000:
            raise ValueError(f"steps must be between 1 and 1000, not {steps}")
        if not 0 <= guidance < float("inf"):
            raise ValueError(f"guidance must be a finite number of at least 0, not {guidance}")
        has_controlnet = getattr(self.diffusion, "controlnet", None) is not None
        if has_controlnet != (control_image is not None):
            raise ValueError(
                "a ControlNet needs a control image" if has_controlnet else "a control image needs a ControlNet"
            )
        options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
        if size is not None:
            factor = self.diffusion.vae_scale_factor
            if any(side < factor or side % factor for side in size):
                raise ValueError(f"size must be multiples of {factor} pixels, not {size[0]}x{size[1]}")
        if init_image is not None:
            if not 0 < strength <= 1 or int(steps * strength) < 1:
                raise ValueError(f"strength must be above 0 and at most 1, and steps x strength at least 1: {strength}")
            options |= {"image": _sized(init_image, size), "strength": strength}
        if has_controlnet:
            beside = size if init_image is None else options["image"].size
            options["control_image" if init_image is not None else "image"] = _sized(control_image, beside)
            options["controlnet_conditioning_scale"] = control_scale
        if size is not None and (init_image is None or has_controlnet):
            options |= {"width": size[0], "height": size[1]}
        return options


def _sized(image: Any, size: tuple[int, int] | None) -> Any:
    image = image.convert("RGB")
    if size is None:
        # The autoencoder works in blocks of 8 pixels.
        size = tuple(max(8, side - side % 8) for side in image.size)
    return image if image.size == size else image.resize(size)


def _reporter(on_step: Callable[[int, int], None] | None) -> Any:
    if on_step is None:
        return None

    def report(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        on_step(step + 1, pipeline.num_timesteps)
        return tensors

    return report
