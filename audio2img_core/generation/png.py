"""Image files: PNGs that carry the settings they were made with, and images that a user gives."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..storage.files import whole_file

if TYPE_CHECKING:
    from .settings import GenerationSettings

_CHUNK = "audio2img"  # the PNG text chunk
_USED_WITH = {  # field -> the one without which it has no effect
    "prompt_weight": "prompt",
    "blend_mode": "prompt",
    "denoise": "init_image",
    "control_scale": "control_image",
}
_LEFT_OUT = ("seed", "count", "init_image", "control_image")  # the seed is the image's own; images are told by name


def picture_metadata(
    settings: GenerationSettings, *, sound: str, seed: int, names: Mapping[str, str | None]
) -> dict[str, Any]:
    """What a picture was made with, and nothing else: the settings that had an effect, a seed and names.

    Args:
        settings: Settings that the picture was made with.
        sound: Name or path of the sound.
        seed: Seed of this picture.
        names: Names or paths of the models and of the images that were given, by their part in it.

    Returns:
        JSON values; of paths the last part only, so that nothing tells about the folders of the user's machine.
    """
    told = {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if field.name not in _LEFT_OUT and getattr(settings, _USED_WITH.get(field.name, field.name)) is not None
    }
    files = {part: _without_folder(name) for part, name in names.items() if name}
    made = {"audio2img": __version__, "sound": _without_folder(sound), "seed": seed, **told, **files}
    return {name: value for name, value in made.items() if value is not None}


def _without_folder(name: str) -> str:
    """The last part of a path; a hub id owner/name, or a plain word such as mini, as it is."""
    path = Path(name).expanduser()
    local = path.exists() or path.is_absolute() or name.startswith(".") or "\\" in name or name.count("/") != 1
    return os.path.basename(os.path.abspath(path)).rsplit("\\", 1)[-1] if local else name


def write_picture(image: Any, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Write a PIL image as PNG with metadata as JSON in the text chunk `audio2img`; a whole file or none."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_itxt(_CHUNK, json.dumps(metadata, ensure_ascii=False))
    with whole_file(path) as partial:
        image.save(partial, format="PNG", pnginfo=chunks)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a picture of ours was made with.

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
