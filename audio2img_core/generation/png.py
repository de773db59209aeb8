"""Picture files: PNGs that carry what they were made with, and pictures that are given."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ..storage.files import whole_file

_CHUNK = "audio2img"  # the PNG text chunk


def write_picture(image: Any, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Write a PIL image as PNG with its settings as JSON in the text chunk `audio2img`; a whole file or none."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_itxt(_CHUNK, json.dumps(settings, ensure_ascii=False))
    with whole_file(path) as partial:
        image.save(partial, format="PNG", pnginfo=chunks)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a picture of ours was made with.

    Raises:
        FileNotFoundError: no such file. ValueError: no picture of ours.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            text = image.info.get(_CHUNK)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a picture that can be read") from error
    if text is None:
        raise ValueError(f"{path}: carries no audio2img settings")
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict) or not settings:
        raise ValueError(f"{path}: its audio2img settings are damaged")
    return settings


def open_image(path: str | None) -> Any:
    """A PIL image; None for None.

    Raises:
        FileNotFoundError: no such file. ValueError: no picture.
    """
    if path is None:
        return None
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a picture that can be read") from error
