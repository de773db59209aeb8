"""The pack loaded as ComfyUI loads it: under its folder's path, not by an installed name."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def pack():
    name = str(ROOT).replace(".", "_x_")  # ComfyUI's own way to make a module name of a path
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Plain input and model folders, as the nodes use them outside ComfyUI."""
    for variable, name in (("AUDIO2IMG_INPUT", "input"), ("AUDIO2IMG_MODELS", "models")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    (tmp_path / "models" / "audio_encoders").mkdir()
    return tmp_path


@pytest.fixture
def node(pack):
    """Class key -> a fresh node."""
    return lambda key: pack.NODE_CLASS_MAPPINGS[key]()


@pytest.fixture
def encoder(node, folders, tiny_folders):
    shutil.copytree(tiny_folders("sd15") / "encoder", folders / "models" / "audio_encoders" / "mine")
    return node("Audio2ImgLoadEncoder").execute("mine", "auto")[0]
