"""The embedded default, called "mini" wherever an encoder or a diffusion model is named."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .encoder import AudioEncoder

logger = logging.getLogger(__name__)

NAME = "mini"


def load_mini_encoder() -> AudioEncoder:
    """The audio encoder of the embedded default: until a trained one is embedded, an untrained tiny one."""
    from .untrained import make_pair

    _warn()
    return make_pair(NAME)[0]


def load_mini_diffusion() -> Any:
    """The diffusers pipeline of the embedded default: until a trained one is embedded, an untrained tiny one."""
    from .untrained import make_diffusion

    _warn()
    return make_diffusion(NAME)


@functools.cache
def _warn() -> None:
    logger.warning(
        "no trained default is embedded yet: 'mini' is an untrained tiny model, and what it draws is noise; "
        "name your own with --encoder and --diffusion"
    )
