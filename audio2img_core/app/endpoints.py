"""What the page and its API call: values of the page's fields in, values of its outputs out, errors as its messages."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from PIL import Image

from ..checks import first_line, message
from ..conditioning.schedule import ScheduleSettings
from ..conditioning.zero_shot import read_captions
from ..generation.settings import GenerationSettings
from .studio import Studio

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _said(handler: Callable[_P, _R]) -> Callable[_P, _R]:
    """The handler, its errors turned into the page's messages of one line."""

    @functools.wraps(handler)
    def call(*arguments: _P.args, **options: _P.kwargs) -> _R:
        try:
            return handler(*arguments, **options)
        except (ValueError, OSError) as error:
            raise gr.Error(_as_html(message(error)), print_exception=False) from error
        except (MemoryError, RuntimeError) as error:
            # Out of memory, or a fault of ours: whoever runs the page finds the traceback in its log.
            words = first_line(error) if str(error) else type(error).__name__
            raise gr.Error(_as_html(words)) from error

    return call


class Endpoints:
    """The three endpoints `/hear`, `/draw` and `/film`; their docstrings are the API's documentation."""

    def __init__(self, studio: Studio):
        self._studio = studio

    @_said
    def hear(
        self,
        sound: str | None,
        start: float | None = 0.0,
        duration: float | None = None,
        captions: str | None = None,
    ) -> tuple[Image.Image, dict[str, float] | None]:
        """What is heard in a sound.

        sound: a sound or video file. start, duration: seconds of it; duration null = to the end. captions: to choose
        from, one a line; empty = the model's own. Returns the spectrogram, and the captions with their scores.
        """
        chosen = read_captions(captions) if captions and captions.strip() else ()
        spectrogram, heard = self._studio.hear(sound, start=start or 0.0, duration=duration, captions=chosen)
        return spectrogram, dict(heard) or None

    @_said
    def draw(
        self,
        sound: str | None,
        start: float | None = 0.0,
        duration: float | None = None,
        prompt: str | None = None,
        prompt_weight: float = 0.5,
        negative: str | None = None,
        sound_strength: float = 1.0,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        count: int = 1,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - this is how Gradio is told
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """Pictures of a sound.

        sound: a sound or video file. start, duration: seconds of it; duration null = to the end. prompt: text mixed
        with the sound, prompt_weight of it (0 to 1). negative: text to steer away from. sound_strength: 1 = as heard.
        steps, guidance: of the sampler. seed: null = by chance; the pictures count up from it. Returns the pictures,
        PNG files that carry their settings, and these settings.
        """
        settings = GenerationSettings(
            start=start or 0.0,
            duration=duration,
            prompt=prompt or None,
            prompt_weight=prompt_weight,
            negative=negative or None,
            sound_strength=sound_strength,
            steps=steps,
            guidance=guidance,
            seed=seed,
            count=count,
        )
        pictures = self._studio.draw(sound, settings, on_step=_bar(progress, "drawing", "steps"))
        return [str(path) for path, _ in pictures], [told for _, told in pictures]

    @_said
    def film(
        self,
        sound: str | None,
        start: float | None = 0.0,
        duration: float | None = None,
        prompt: str | None = None,
        prompt_weight: float = 0.5,
        negative: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        fps: float = 8.0,
        smoothing: float = 0.25,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - this is how Gradio is told
    ) -> tuple[str, dict[str, Any]]:
        """A film that changes with a sound.

        The parameters are those of /draw; fps: pictures a second; smoothing: seconds over which changes are evened
        out. Returns an MP4 with the sound, and its settings.
        """
        settings = GenerationSettings(
            start=start or 0.0,
            duration=duration,
            prompt=prompt or None,
            prompt_weight=prompt_weight,
            negative=negative or None,
            steps=steps,
            guidance=guidance,
            seed=seed,
        )
        path, told = self._studio.film(
            sound,
            settings,
            ScheduleSettings(fps=fps, smoothing=smoothing),
            on_hear=_bar(progress, "hearing", "windows"),
            on_step=_bar(progress, "drawing", "pictures"),
        )
        return str(path), told


def _bar(progress: gr.Progress, label: str, unit: str) -> Callable[[int, int], None]:
    """`on_step` that moves the page's progress bar."""

    def on_step(done: int, total: int) -> None:
        progress((done, total), desc=label, unit=unit)

    return on_step


def _as_html(text: str) -> str:
    """The page shows messages as HTML, and names of files stand in them."""
    return html.escape(text, quote=False)
