"""`audio2img info`: what a checkpoint is, or what a picture was made with."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .common import MINI, quiet_libraries

HELP = "Tell what an encoder's checkpoint is, or with which settings a picture was made."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "source", nargs="?", default=MINI, help="encoder (folder, file, hub id) or .png (default: mini)"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the facts, a line each."""
    is_picture = Path(arguments.source).suffix.lower() == ".png"
    facts = picture_facts(arguments.source) if is_picture else encoder_facts(arguments.source)
    if arguments.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items()) or "not told"
        print(f"{name:<{width}}  {value}")
    return 0


def picture_facts(path: str) -> dict[str, Any]:
    """The settings in a picture's metadata.

    Raises:
        FileNotFoundError: no such file. ValueError: no picture of ours.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            text = image.info.get("audio2img")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a picture that can be read") from error
    if text is None:
        raise ValueError(f"{path}: carries no audio2img settings")
    try:
        facts = json.loads(text)
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not facts:
        raise ValueError(f"{path}: its audio2img settings are damaged")
    return facts


def encoder_facts(source: str) -> dict[str, Any]:
    """What a checkpoint's config and headers tell; its weights are not read."""
    quiet_libraries()
    from ..describe import describe

    return describe(source)
