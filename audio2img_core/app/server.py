"""Serving the page."""

from __future__ import annotations

import json
import os
from pathlib import Path

# Read when Gradio is imported: it must not ask its makers' server for news.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from ..storage.files import AUDIO_SUFFIXES
from .look import CSS, theme
from .page import build_page
from .studio import Studio

_EXAMPLES = Path(__file__).parents[2] / "examples"  # of a checkout; an installed package has none
# Gradio keeps 0.1 MB of each caller, of 10,000 if it is let; the page has nothing to remember of them.
_SESSIONS = 100


def find_examples(folder: Path = _EXAMPLES) -> list[tuple[Path, str]]:
    """The example sounds and what they are: those that the folder's captions.jsonl names; none without it."""
    index = folder / "captions.jsonl"
    if not index.is_file():
        return []
    lines = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines() if line.strip()]
    named = [(folder / line["audio"], line["caption"][0]) for line in lines]
    return [(path, name) for path, name in named if path.suffix in AUDIO_SUFFIXES and path.is_file()]


def serve(studio: Studio, *, host: str = "127.0.0.1", port: int = 7860, share: bool = False) -> tuple[gr.Blocks, str]:
    """Start the page in threads of its own.

    Args:
        studio: hears and draws.
        host, port: address to listen on; "0.0.0.0" = all of this machine's.
        share: also at a public address, by Gradio's servers.

    Returns:
        The page, for its `close`, and its address.

    Raises:
        OSError: the port is taken.
    """
    page = build_page(studio, find_examples())
    _, local, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=theme(),
        css=CSS,
        state_session_capacity=_SESSIONS,
        max_file_size=round(studio.limits.megabytes * 1e6),
        show_error=True,
        ssr_mode=False,
        quiet=True,
        footer_links=["api"],
        prevent_thread_lock=True,
    )
    return page, (public or local).rstrip("/")
