"""Load Audio."""

from __future__ import annotations

import hashlib
from typing import Any

from ..audio2img_core.audio.io import load_audio
from . import host


class LoadAudio:
    """Decode a sound, or the sound of a video, from the input folder."""

    CATEGORY = "audio2img"
    DESCRIPTION = (
        "Loads a sound, or the sound of a video, from ComfyUI's input folder: wav, flac, mp3, ogg, opus, m4a, mp4, "
        "webm, mkv and whatever else FFmpeg reads. Long files are not read whole when a duration is set."
    )
    SEARCH_ALIASES = ["load sound", "open wav", "mp3", "audio file", "video sound"]
    FUNCTION = "execute"
    RETURN_TYPES = ("AUDIO",)
    RETURN_NAMES = ("audio",)
    OUTPUT_TOOLTIPS = ("The decoded sound, all channels at the file's own sample rate.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        seconds = {"min": 0.0, "max": 1e6, "step": 0.01, "round": 0.001}
        return {
            "required": {
                "audio_file": (
                    host.input_files(),
                    {"tooltip": "A sound or video in ComfyUI's input folder or a folder in it, or an example."},
                ),
                "start": ("FLOAT", {"default": 0.0, **seconds, "tooltip": "Seconds to skip at the start of the file."}),
                "duration": ("FLOAT", {"default": 0.0, **seconds, "tooltip": "Seconds to read; 0 reads to the end."}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, audio_file: str | None) -> bool | str:
        if audio_file is None:  # comes over a link and is not known yet
            return True
        try:
            host.input_path(audio_file)
        except (ValueError, OSError) as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, audio_file: str, start: float, duration: float) -> str:
        digest = hashlib.sha256()
        with open(host.input_path(audio_file), "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    def execute(self, audio_file: str, start: float, duration: float) -> tuple[dict[str, Any]]:
        waveform, rate = load_audio(
            host.input_path(audio_file), start=start, duration=duration or None, sample_rate=None
        )
        return ({"waveform": waveform[None], "sample_rate": rate},)
