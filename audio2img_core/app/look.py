"""How the page looks: colours, sliders, and the fonts of the visitor's machine: nothing is loaded from elsewhere."""

# pyright: reportPrivateImportUsage=false
# (Gradio exports its themes without saying so.)
from __future__ import annotations

from typing import Any

import gradio as gr

HEADER = """
<h1>audio2img <span>sound as a prompt</span></h1>
<ol>
<li><b>Give a sound:</b> drop a file, record, or take an example.</li>
<li><b>See what is heard</b> in it.</li>
<li><b>Draw it</b>, as pictures or as a film; mix in words if you like.</li>
</ol>
"""

CSS = """
.gradio-container { max-width: 1240px !important; margin: auto; }
.header h1 { margin: 0; font-size: 1.9rem; font-weight: 700; letter-spacing: -0.02em; }
.header h1 span { font-weight: 400; color: var(--body-text-color-subdued); margin-left: 0.4rem; font-size: 1.2rem; }
.header ol { display: flex; flex-wrap: wrap; gap: 0.3rem 1.8rem; margin: 0.6rem 0 0.2rem; padding: 0; list-style: none;
  counter-reset: step; }
.header li { counter-increment: step; color: var(--body-text-color-subdued); }
.header li b { color: var(--body-text-color); }
.header li::before { content: counter(step); display: inline-block; width: 1.5em; height: 1.5em; line-height: 1.5em;
  margin-right: 0.5em; border-radius: 50%; text-align: center; font-size: 0.85em; font-weight: 700; color: white;
  background: var(--color-accent); }
.pictures img { background: white; }
#heard { --font-mono: var(--font); }
.settings { display: flex; flex-wrap: wrap; gap: 0.35rem; }
.settings span { padding: 0.1rem 0.55rem; border-radius: 1rem; font-size: 0.85rem;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
"""


def theme() -> gr.themes.Base:
    """Teal, as the bars of `drawing.draw_scores`, on grey."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def slider(minimum: float, maximum: float, value: float, *, step: float, label: str, scale: int = 1) -> gr.Slider:
    """A slider that does not check its bounds: what uses the value does, and its message says which one is wrong.

    Gradio's own message names no field, which leaves who calls the API in the dark. The value is an int where step is
    1; None stays.
    """

    def number(payload: Any) -> float | int | None:
        if payload is None:
            return None
        try:
            return int(payload) if step == 1 else float(payload)
        except (TypeError, ValueError, OverflowError):
            raise gr.Error(f"{label} must be a number", print_exception=False) from None

    made = gr.Slider(minimum, maximum, value, step=step, precision=0 if step == 1 else None, label=label, scale=scale)
    # Not a subclass: for each of them Gradio writes a file beside its source.
    made.preprocess = number  # pyright: ignore[reportAttributeAccessIssue]
    return made
