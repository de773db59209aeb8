"""What `audio2img_core` exports: the same names for an editor, at run time and in docs/api.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import audio2img_core

ROOT = Path(__file__).parents[2]


def typed() -> dict[str, str]:
    """Name -> module of the imports under TYPE_CHECKING, which is what an editor and a type checker see."""
    tree = ast.parse((ROOT / "audio2img_core" / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_an_editor_sees_what_is_there_at_run_time():
    assert typed() == audio2img_core._MODULES
    assert sorted(typed()) == sorted(audio2img_core.__all__)
    assert set(audio2img_core.__all__) <= set(dir(audio2img_core))


@pytest.mark.parametrize("name", audio2img_core.__all__)
def test_every_export_is_there_and_documented(name):
    assert getattr(audio2img_core, name).__doc__
    assert re.search(rf"^### `{name}\b", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_a_name_that_is_not_exported():
    with pytest.raises(AttributeError, match="no attribute 'AudioDecoder'"):
        audio2img_core.AudioDecoder  # noqa: B018


def test_types_are_shipped():
    assert (ROOT / "audio2img_core" / "py.typed").is_file()
