"""The project file declares what the code imports, Python's versions agree, and the wheel holds what it should."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = {"audio2img_core", "nodes", "training", "benchmarks", "tests"}
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "nodes"}
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "resvg_py": "resvg-py", "upath": "universal-pathlib"}
# The extras that a folder's code may need beside the core's dependencies, except in the folders inside it named here.
EXTRAS = {
    "audio2img_core/app": {"app"},
    "audio2img_core/batch": {"ray"},
    "audio2img_core": {"int8"},
    "nodes": set(),
    "training/recipes": {"mini"},
    "training": {"train"},
    "tests": {"test"},
}
IN_FUNCTIONS_ONLY = {"app", "int8", "ray"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(top-level name of a third-party module, whether a function imports it) for each import of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in (name.partition(".")[0] for name in names):
            if name not in sys.stdlib_module_names and name not in OWN | COMFYUI:
                yield name, id(node) in inside


def declared(extra: str | None = None) -> set[str]:
    """The names of the distributions that the core, or an extra, depends on."""
    requirements = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    found = set()
    for requirement in requirements:
        name, more = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?", requirement).groups()
        if name == PROJECT["name"]:
            found |= set().union(*(declared(each) for each in more.split(",")))
        else:
            found.add(name.lower())
    return found


@pytest.mark.parametrize("folder", EXTRAS)
def test_every_import_is_declared(folder):
    inner = [ROOT / other for other in EXTRAS if other.startswith(f"{folder}/")]
    allowed = declared().union(*(declared(extra) for extra in EXTRAS[folder]))
    files = [path for path in (ROOT / folder).rglob("*.py") if not any(path.is_relative_to(each) for each in inner)]
    assert files
    for path in files:
        for name, _ in imports(path):
            package = DISTRIBUTIONS.get(name, name).lower()
            assert package in allowed, f"{path.relative_to(ROOT)} imports {name}: declare {package}"


def test_what_an_extra_brings_is_imported_when_it_is_used():
    optional = set().union(*(declared(extra) for extra in IN_FUNCTIONS_ONLY)) - declared()
    for path in (ROOT / "audio2img_core").rglob("*.py"):
        for name, in_function in imports(path):
            assert in_function or name not in optional or path.parent.name == "app", f"{path}: {name}"


def test_the_pack_requires_no_more_than_the_package():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert set(lines) <= set(PROJECT["dependencies"])
    assert not [line for line in lines if line.startswith("torch")]  # ComfyUI chooses it


@pytest.mark.parametrize("folder", ["audio2img_core", "nodes", "training", "benchmarks"])
def test_nothing_shipped_imports_the_tests(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in modules if name.partition(".")[0] == "tests"], path


def test_every_place_names_the_same_python():
    version = re.fullmatch(r">=(3\.\d+)", PROJECT["requires-python"])[1]
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    tried = {tuple(map(int, found.split("."))) for found in re.findall(r'"(3\.\d+)"', workflow)}
    assert min(tried) == tuple(map(int, version.split("."))) and len(tried) > 1
    for page in ("README.md", "docs/start.md"):
        assert f"Python {version} or newer" in (ROOT / page).read_text(encoding="utf-8"), page
    (served,) = re.findall(r"^FROM python:(3\.\d+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(map(int, served.split("."))) in tried
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert config["tool"]["ruff"]["target-version"] == f"py{version.replace('.', '')}"


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_their_data(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("audio2img_core", "training"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {path.relative_to(source).as_posix() for path in source.glob("*/**/*") if path.is_file()}
    wanted = {name for name in wanted if not name.startswith(("build/", "training/recipes/"))}
    assert held == {name for name in wanted if ".egg-info/" not in name}
    assert {"audio2img_core/py.typed", "training/presets/default.yaml"} <= held
