"""Audio Conditioning Schedule."""

from __future__ import annotations

from typing import Any

from ..audio2img_core.audio.io import SAMPLE_RATE
from ..audio2img_core.audio.waveform import read_audio_mapping, read_clips
from ..audio2img_core.conditioning.comfy import to_comfy
from ..audio2img_core.conditioning.prompt import condition
from ..audio2img_core.conditioning.schedule import (
    MAX_FRAMES,
    ScheduleSettings,
    keyframes,
    loudness,
    onsets,
    schedule,
)
from . import host
from .conditioning import CLIP, STRENGTH


class AudioConditioningSchedule:
    """A prompt for every frame of a film, out of a sound's course."""

    CATEGORY = "audio2img"
    DESCRIPTION = (
        "One conditioning a frame, of the sound around it: for a latent batch of as many frames, AnimateDiff or any "
        "sampler that takes a batch of prompts. Besides, how loud the sound is at each frame, and where sounds begin."
    )
    SEARCH_ALIASES = ["audio reactive", "music video", "audio schedule", "audio keyframes", "animatediff audio"]
    FUNCTION = "execute"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "INT", "FLOAT", "FLOAT", "STRING")
    RETURN_NAMES = ("positive", "negative", "frames", "loudness", "onsets", "keyframes")
    OUTPUT_TOOLTIPS = (
        "A batch of prompts, one a frame.",
        "The empty prompt as often.",
        "Number of frames: the batch size of the latents.",
        "A list of values between 0 and 1: how loud each frame is.",
        "A list of values between 0 and 1: where sounds begin.",
        "The loudness as text, 0:(0.10), 1:(0.25), ...",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "encoder": ("A2I_ENCODER", {"tooltip": "From Load Audio Encoder (Wav2Vec2Bert)."}),
                "audio": ("AUDIO", {"tooltip": "One sound, from any node that gives AUDIO."}),
                "fps": (
                    "FLOAT",
                    {"default": 8.0, "min": 0.1, "max": 120.0, "step": 0.5, "tooltip": "Frames a second."},
                ),
                "frames": (
                    "INT",
                    {"default": 0, "min": 0, "max": MAX_FRAMES, "tooltip": "Of the film; 0 is as long as the sound."},
                ),
                "every": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 1000,
                        "tooltip": "Hear only every so many frames (keyframes); in between goes a straight line.",
                    },
                ),
                "smoothing": (
                    "FLOAT",
                    {
                        "default": 0.25,
                        "min": 0.0,
                        "max": 60.0,
                        "step": 0.05,
                        "tooltip": "Seconds over which what is heard is evened out; 0 is not at all.",
                    },
                ),
                "strength": STRENGTH,
            },
            "optional": {
                "window": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 3600.0,
                        "step": 0.05,
                        "round": 0.001,
                        "tooltip": "Seconds around a frame that are heard; 0 is what the encoder learned.",
                    },
                ),
                "clip": CLIP,
            },
        }

    def execute(
        self,
        encoder: host.ManagedEncoder,
        audio: Any,
        fps: float,
        frames: int,
        every: int,
        smoothing: float,
        strength: float,
        window: float = 0.0,
        clip: Any = None,
    ) -> tuple[list[Any], list[Any], int, list[float], list[float], str]:
        clips = read_clips(read_audio_mapping(audio))
        course = ScheduleSettings(
            fps=fps, frames=frames or None, every=every, window=window or None, smoothing=smoothing
        )
        film = schedule(encoder.ready(), clips, SAMPLE_RATE, course, on_step=host.progress())
        null = host.null_prompt(film.space, clip)
        prompts = condition(film.to(host.intermediate_device()), sound_strength=strength, windows="keep", null=null)
        count = len(film.tokens)
        level, begins = (curve(clips[0], fps=fps, frames=count) for curve in (loudness, onsets))
        positive, negative = map(to_comfy, prompts)
        return positive, negative, count, level.tolist(), begins.tolist(), keyframes(level)
