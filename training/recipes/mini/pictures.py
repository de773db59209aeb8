"""Pictures of the concepts: one icon of each open emoji set, drawn on white."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from .packages import Packages

SIZE = 128  # pixels
MARGIN = 0.04  # of the side, on each side


@dataclass(frozen=True)
class Style:
    """One emoji set.

    `role` is "draw" for the styles that the diffusion model learns, "judge" for those that only the picture
    classifier sees beside them, and "unseen" for the style on which that classifier is tested.
    """

    name: str
    licence: str
    role: str
    spoken: str = ""  # in a prompt: "a dog, flat style"

    @property
    def package(self) -> str:
        return f"@iconify-json/{self.name}"


STYLES = (
    Style("noto", "Apache-2.0", "draw", "noto"),
    Style("fluent-emoji", "MIT", "draw", "glossy"),
    Style("fluent-emoji-flat", "MIT", "draw", "flat"),
    Style("noto-v1", "Apache-2.0", "draw", "old noto"),
    Style("emojione", "CC-BY-4.0", "draw", "emojione"),
    Style("fxemoji", "Apache-2.0", "draw", "firefox"),
    Style("openmoji", "CC-BY-SA-4.0", "judge"),
    Style("emojione-v1", "CC-BY-SA-4.0", "judge"),
    Style("streamline-emojis", "CC-BY-4.0", "judge"),
    Style("twemoji", "CC-BY-4.0", "unseen"),
)
"""Of those that are drawn, the first is drawn where no style is named."""


@lru_cache(maxsize=len(STYLES))
def _icons(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def find_icon(icons: dict, names: list[str]) -> str | None:
    """The first of these names that an icon set has, under its own or another name."""
    for name in names:
        if name in icons["icons"] or name in icons.get("aliases", {}):
            return name
    return None


def svg_of(icons: dict, name: str) -> str:
    """The icon of a set in Iconify's JSON form as an SVG file; names that stand for others are followed.

    The fields are those of IconifyJSON: `body`, and `left`, `top`, `width`, `height` with the set's as defaults.
    """
    chain = [name]
    while chain[-1] not in icons["icons"]:
        chain.append(icons["aliases"][chain[-1]]["parent"])
    fields = {"left": 0, "top": 0, "width": icons.get("width", 16), "height": icons.get("height", 16)}
    for key in reversed(chain):
        source = icons["icons"].get(key) or icons["aliases"][key]
        fields |= {field: source[field] for field in fields if field in source}
    body = icons["icons"][chain[-1]]["body"]
    box = f"{fields['left']} {fields['top']} {fields['width']} {fields['height']}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{fields["width"]}" height="{fields["height"]}">{body}</svg>'
    )


def renderer() -> Callable[..., bytes]:
    """What makes pixels of an SVG.

    Raises:
        ImportError: resvg-py is missing (gradients, masks and filters come out right with it).
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError("drawing needs resvg-py: pip install resvg-py") from error
    return resvg_py.svg_to_bytes


def draw(svg: str, size: int = SIZE, margin: float = MARGIN) -> Image.Image:
    """An SVG drawn in the middle of a white square of `size` pixels, RGB, with white around it.

    What is drawn fills the square but for `margin`: sets differ in how much air they leave around an icon.

    Raises:
        ImportError: as `renderer`. ValueError: nothing is drawn.
    """
    data = renderer()(svg_string=svg, width=4 * size, height=4 * size)
    image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    box = image.getchannel("A").point([255 if alpha > 8 else 0 for alpha in range(256)]).getbbox()
    if box is None:
        raise ValueError("nothing is drawn")
    image = image.crop(box)
    inner = round(size * (1 - 2 * margin))
    scale = inner / max(image.size)
    width, height = (max(round(side * scale), 1) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (size, size), "white")
    canvas.alpha_composite(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas.convert("RGB")


def draw_all(packages: Packages, concepts: dict[str, dict], output: Path) -> list[dict]:
    """Draw every concept in every style that has it, under pictures/.

    Returns:
        the rows of the manifest.
    """
    rows = []
    for style in STYLES:
        folder = packages.npm(style.package)
        icons = _icons(folder / "icons.json")
        for concept, entry in concepts.items():
            special = entry.get("icons", {}).get(style.name)
            if special == "none":
                continue
            name = find_icon(icons, [special] if special else entry["icon"])
            if name is None:
                continue
            path = output / "pictures" / concept / f"{style.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(svg_of(icons, name)).save(path)
            rows.append(
                {
                    "picture": f"pictures/{concept}/{style.name}.png",
                    "concept": concept,
                    "style": style.name,
                    "role": style.role,
                    "icon": name,
                    "package": style.package,
                    "version": packages.npm_version(style.package),
                    "licence": style.licence,
                }
            )
    return rows
