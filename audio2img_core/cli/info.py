"""`audio2img info`: what a checkpoint is, or what a picture was made with."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..generation.png import read_settings
from ..storage.files import AUDIO_SUFFIXES
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
    path = Path(arguments.source)
    is_picture = path.suffix.lower() == ".png"
    if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES:
        raise ValueError(f"{path}: allowed are an encoder (folder, .safetensors file, hub id) and a .png picture")
    facts = read_settings(arguments.source) if is_picture else encoder_facts(arguments.source)
    if arguments.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {said(value)}")
    return 0


def said(value: Any) -> str:
    """A fact in words; of facts within facts only those that are told."""
    if not isinstance(value, dict):
        return str(value)
    told = {name: item for name, item in value.items() if item not in (None, "", {})}
    shown = (f"{name} ({said(item)})" if isinstance(item, dict) else f"{name} {item}" for name, item in told.items())
    return ", ".join(shown) or "not told"


def encoder_facts(source: str) -> dict[str, Any]:
    """What a checkpoint's config and headers tell; its weights are not read."""
    quiet_libraries()
    from ..encoder.inspect import describe

    return describe(source)
