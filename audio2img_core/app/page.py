"""The page: its fields, and what happens when they are touched."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..generation.png import read_settings
from .endpoints import Endpoints
from .look import HEADER, slider
from .studio import Studio

_HISTORY = 60  # pictures of a session that stay in sight
_QUEUE = 200  # requests that wait; the next one is told so
_AGES = (3600, 86_400)  # seconds: how often files of visitors are looked through, how old they become
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_PLAIN = {"start": 0, "sound_strength": 1}  # goes without saying
_Pictures = list[tuple[str, None]]  # as Gradio gives a gallery: paths, and captions that ours have not


def build_page(studio: Studio, examples: Sequence[tuple[Path, str]] = ()) -> gr.Blocks:
    """The page, ready to be launched.

    Args:
        studio: hears and draws.
        examples: sounds to choose from, and what they are called.
    """
    endpoints, defaults, limits = Endpoints(studio), studio.pipeline.defaults, studio.limits
    with gr.Blocks(title="audio2img", analytics_enabled=False, delete_cache=_AGES) as page:
        gr.HTML(HEADER, elem_classes="header")
        with gr.Row():
            with gr.Column(scale=5):
                sound = gr.Audio(
                    label=f"Sound, up to {limits.seconds:g} s",
                    type="filepath",
                    sources=["upload", "microphone"],
                    elem_id="sound",
                    buttons=["download"],
                    waveform_options=gr.WaveformOptions(waveform_color="#94a3b8", waveform_progress_color="#0d9488"),
                )
                if examples:
                    gr.Examples(
                        [[str(path)] for path, _ in examples],
                        [sound],
                        example_labels=[name for _, name in examples],
                        label="Examples",
                        api_visibility="private",
                    )
                with gr.Accordion("Only a part of it", open=False), gr.Row(equal_height=True):
                    start = gr.Number(0, label="Start", info="seconds", step=0.1)
                    duration = gr.Number(None, label="Length", info="seconds; empty: to the end", step=0.1)
                    again = gr.Button("Hear this part", min_width=100)
                scores = gr.Label(label="What is heard", num_top_classes=5, show_heading=False, elem_id="heard")
                spectrogram = gr.Image(
                    label="Waveform and spectrogram",
                    show_label=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                    interactive=False,
                    elem_id="spectrogram",
                )
                with gr.Accordion("Captions to choose from", open=not studio.pipeline.captions):
                    captions = gr.Textbox(
                        label="One a line",
                        info="empty: the model's own" if studio.pipeline.captions else "this model has none of its own",
                        lines=4,
                    )
            with gr.Column(scale=6):
                with gr.Row(equal_height=True):
                    prompt = gr.Textbox(label="Words to mix in", placeholder="none: the sound alone", scale=3)
                    weight = slider(0, 1, 0.5, step=0.05, label="Weight", scale=2)
                with gr.Accordion("How it is drawn", open=False):
                    with gr.Row():
                        seed = gr.Number(None, label="Seed", info="empty: by chance", precision=0)
                        steps = slider(1, limits.steps, defaults.steps, step=1, label="Steps")
                        guidance = slider(0, 20, defaults.guidance, step=0.5, label="Guidance")
                    with gr.Row():
                        strength = slider(0, 2, 1, step=0.05, label="Strength of the sound")
                        negative = gr.Textbox(label="Words to steer away from", scale=2)
                with gr.Tab("Picture"):
                    with gr.Row(equal_height=True):
                        count = slider(1, limits.pictures, 1, step=1, label="Pictures", scale=3)
                        draw = gr.Button("Draw", variant="primary", size="lg", scale=2, elem_id="draw")
                    pictures = gr.Gallery(
                        label="Drawn",
                        format="png",
                        columns=4,
                        height=440,
                        object_fit="contain",
                        fit_columns=False,
                        buttons=["download", "fullscreen"],
                        interactive=False,
                        elem_id="pictures",
                        elem_classes="pictures",
                    )
                    note = gr.HTML(elem_id="settings")
                    download = gr.DownloadButton("Download PNG with its settings", interactive=False, size="md")
                    gr.Markdown("**This session:** choose a picture to see it again")
                    history = gr.Gallery(
                        show_label=False,
                        format="png",
                        height=220,
                        columns=6,
                        fit_columns=False,
                        object_fit="contain",
                        allow_preview=False,
                        buttons=[],
                        interactive=False,
                        elem_id="history",
                        elem_classes="pictures",
                    )
                with gr.Tab("Film"):
                    with gr.Row(equal_height=True):
                        fps = slider(1, 24, 8, step=1, label="Pictures/s", scale=3)
                        smoothing = slider(0, 2, 0.25, step=0.05, label="Smoothing", scale=3)
                        shoot = gr.Button("Make the film", variant="primary", size="lg", scale=2, elem_id="shoot")
                    film = gr.Video(label="Film, with its sound", interactive=False, height=420, elem_id="film")
                    film_note = gr.HTML()
        settings, film_settings = (gr.JSON(label="Settings", visible=False) for _ in range(2))

        part, drawing = [sound, start, duration], [steps, guidance, seed]
        models = {"concurrency_id": "models", "concurrency_limit": 1}
        hearing = {"inputs": [*part, captions], "outputs": [spectrogram, scores], **models}
        again.click(endpoints.hear, **hearing, api_name="hear")
        gr.on(
            [sound.change, captions.blur],
            lambda given, *rest: (None, None) if given is None else endpoints.hear(given, *rest),
            **hearing,
            trigger_mode="always_last",
            show_progress_on=[spectrogram],
            api_visibility="private",
        )
        draw.click(
            endpoints.draw,
            [*part, prompt, weight, negative, strength, *drawing, count],
            [pictures, settings],
            **models,
            api_name="draw",
            show_progress_on=[pictures],
        ).success(_remember, [pictures, history], [pictures, history, note, download], **_PRIVATE)
        pictures.select(_show, [pictures], [note, download], **_PRIVATE)
        history.select(_recall, [history], [pictures, note, download], **_PRIVATE)
        shoot.click(
            endpoints.film,
            [*part, prompt, weight, negative, *drawing, fps, smoothing],
            [film, film_settings],
            concurrency_id="film",
            concurrency_limit=1,
            api_name="film",
            show_progress_on=[film],
        ).success(_describe, [film_settings], [film_note], **_PRIVATE)
    return page.queue(max_size=_QUEUE, api_open=False)


def _remember(drawn: _Pictures, history: _Pictures | None) -> tuple[Any, list[str], str, Any]:
    """The first picture opened, the session's pictures, newest first, and what is told of the one that is open."""
    paths = [path for path, _ in drawn]
    older = [path for path, _ in history or []]
    return gr.Gallery(selected_index=0), [*paths, *older][:_HISTORY], *_told(paths[0])


def _show(pictures: _Pictures, chosen: gr.SelectData) -> tuple[str, Any]:
    return _told(pictures[chosen.index][0])


def _recall(history: _Pictures, chosen: gr.SelectData) -> tuple[Any, str, Any]:
    path = history[chosen.index][0]
    return gr.Gallery([path], selected_index=0), *_told(path)


def _told(path: str) -> tuple[str, Any]:
    """A picture's settings as HTML, and the button that downloads it."""
    return _describe(read_settings(path)), gr.DownloadButton(value=path, interactive=True)


def _describe(settings: dict[str, Any]) -> str:
    """Settings as a line of HTML."""
    words = (
        f"<span>{html.escape(name.replace('_', ' '))} <b>{html.escape(str(value))}</b></span>"
        for name, value in settings.items()
        if name != "audio2img" and _PLAIN.get(name) != value
    )
    return f'<div class="settings">{"".join(words)}</div>'
