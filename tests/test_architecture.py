"""The import graph: arrows point down, there is no cycle, and an import inside a function has a reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("audio2img_core", "nodes", "training")
# Libraries that an import inside a function keeps out of start-up, or that only some installations have.
HEAVY = {"PIL", "av", "datasets", "diffusers", "fsspec", "gradio", "huggingface_hub", "matplotlib", "torch"}
HEAVY |= {"transformers"}
OPTIONAL = {
    "fcntl",
    "msvcrt",
    "peft",
    "pyarrow",
    "ray",
    "resvg_py",
    "soundfile",
    "tokenizers",
    "torchao",
    "tqdm",
    "webdataset",
}
# What each folder of the core may import beside itself; a name stands for the module or for all of the folder.
BASE = {"checks", "targets", "storage"}
AUDIO = {*BASE, "audio"}
ENCODER = {*AUDIO, "mini", "devices", "encoder"}
CONDITIONING = {*ENCODER, "conditioning"}
GENERATION = {*CONDITIONING, "generation"}
MOUTHS = {*GENERATION, "batch", "plots", "random_init", "cli", "app"}
ALLOWED = {
    "checks": set(),
    "targets": set(),
    "storage": BASE,
    "mini": set(),
    "devices": {"mini"},
    "audio": AUDIO,
    "plots": AUDIO,
    "encoder": ENCODER,
    "conditioning": CONDITIONING,
    "random_init": CONDITIONING,
    "batch": {*ENCODER, "batch"},
    "generation": GENERATION,
    "cli": MOUTHS,
    "app": MOUTHS,
}


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the three packages; a package is named after its folder."""
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


MODULES = modules()


def imports(name: str) -> Iterator[tuple[str, bool, int]]:
    """(imported module, whether inside a function, line) of each import that runs; imports for types do not."""
    file = MODULES[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                parts = package.split(".")
                base = [*parts[: len(parts) - child.level + 1]] if child.level else []
                base = ".".join([*base, *(child.module or "").split(".")]).strip(".")
                for alias in child.names:
                    yield (full if (full := f"{base}.{alias.name}") in MODULES else base), inside, child.lineno
            yield from walk(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), False)


@cache
def libraries(name: str) -> frozenset[str]:
    """The heavy or optional libraries that importing a module of ours imports."""
    found: set[str] = set()
    seen = {name}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        for imported, inside, _ in imports(module):
            if inside:
                continue
            found |= {imported.partition(".")[0]} & (HEAVY | OPTIONAL)
            for part in (imported, *parents(imported)):
                if part in MODULES and part not in seen:
                    seen.add(part)
                    waiting.append(part)
    return frozenset(found)


def parents(name: str) -> list[str]:
    """The packages above a module."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's strongly connected components with more than one member)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                groups.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return groups


def test_there_is_no_import_cycle():
    """Not by an import inside a function either."""
    graph = {
        name: {module for module, _, _ in imports(name) if module in MODULES and module != name} for name in MODULES
    }
    assert cycles(graph) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_an_import_inside_a_function_keeps_a_heavy_library_out():
    wrong = []
    for name in MODULES:
        for module, inside, line in imports(name):
            if not inside:
                continue
            if module in MODULES:
                needed = libraries(module) - libraries(name)
                reason = bool(needed & (HEAVY | OPTIONAL))
            else:
                reason = module.partition(".")[0] in HEAVY | OPTIONAL
            if not reason:
                wrong.append(f"{MODULES[name].relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


def test_training_and_nodes_stand_on_the_core_alone():
    for name in MODULES:
        own = name.partition(".")[0]
        others = {module.partition(".")[0] for module, _, _ in imports(name)} & set(PACKAGES)
        assert others <= ({own} if own == "audio2img_core" else {own, "audio2img_core"}), name


@pytest.mark.parametrize("folder", ALLOWED)
def test_arrows_in_the_core_point_down(folder):
    for name in MODULES:
        parts = name.split(".")
        if parts[0] != "audio2img_core" or parts[1:2] != [folder]:
            continue
        for module, _, line in imports(name):
            if module.startswith("audio2img_core."):
                assert module.split(".")[1] in {folder, *ALLOWED[folder]}, f"{name}:{line} imports {module}"


def test_every_folder_of_the_core_has_its_place():
    folders = {name.split(".")[1] for name in MODULES if name.startswith("audio2img_core.")}
    assert folders == ALLOWED.keys()


@pytest.mark.parametrize("name", ["audio2img_core", "nodes"])
def test_start_up_imports_no_heavy_library(name):
    """ComfyUI imports torch itself; everything else waits for its first use."""
    assert libraries(name) <= {"torch"}
