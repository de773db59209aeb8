"""README.md and docs/*.md as programs: their fenced blocks, and what a test does with each command in them.

What stands behind a fence's language does not show in the rendered page. It says what becomes of the block:

- `sh`: runs, and each command ends with 0. `sh refused`: each ends with 2, and the next `text` block is its message.
- `sh parsed`: cannot run in a test (a model of the hub, a GPU, a container, hours): each command is understood by the
  real parser of what it calls.
- `python`: runs, all blocks of a page in one namespace.
- `sh served`, `python served`: run against a page that is served, by tests/core/test_app.py.
- `yaml`: settings of `audio2img-train`. `text`: what is printed, or a formula; no command.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = {"audio2img": "audio2img_core.cli", "audio2img-train": "training.cli"}
KINDS = {
    **{("sh", mark): "commands" for mark in ("", "refused", "parsed", "served")},
    **{("python", mark): "code" for mark in ("", "served")},
    ("yaml", ""): "settings",
    ("text", ""): "text",
}
FOREIGN = ("git", "cd", "cp", "docker", "pip", "npm", "apt", "curl", "pytest", "bash")  # that a parsed block may call
_FENCE = re.compile(r"^```(\w*)(?: (\w+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page.name, text.count("\n", 0, found.start()) + 1, found[1], found[2] or "", found[3])
        for found in _FENCE.finditer(text)
    ]


def commands(text: str) -> list[list[str]]:
    """The commands of a block of shell, as words; `&&` and line ends part them, assignments in front are left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s+&&\s+", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words = words[1:]
            if words:
                found.append(words)
    return found


class Parsed(Exception):
    """A parser has understood its command line."""


def parse(words: list[str], monkeypatch) -> None:
    """Have the real parser of a command read it, and run nothing.

    Raises:
        AssertionError: an option, a subcommand, a file or a program that does not exist.
    """
    program, rest = words[0], words[1:]
    said = " ".join(words)
    if program in ("torchrun", "accelerate"):
        at = rest.index("-m")
        program, rest = "python", rest[at:]
    if program == "python" and rest[0] == "-m" and rest[1] == "training":
        program, rest = "audio2img-train", rest[2:]
    if program == "docker" and "run" in rest:
        after = rest[rest.index("audio2img") + 1 :]
        assert not after or parse(["audio2img", *after], monkeypatch) is None
    elif program == "docker":
        for name in re.findall(r"--build-arg (\w+)=", said):
            assert f"ARG {name}" in (ROOT / "Dockerfile").read_text(), said
    elif program in OURS:
        _parse_ours(program, rest, monkeypatch, said)
    elif program == "python":
        _parse_script(rest, monkeypatch, said)
    elif program == "pip":
        _check_pip(rest, said)
    elif program == "pytest":
        for mark in re.findall(r"-m (\w+)", said):
            assert f'"{mark}:' in (ROOT / "pyproject.toml").read_text(), said
    elif program == "bash":
        assert (ROOT / rest[0]).is_file(), said
    else:
        assert program in FOREIGN, f"nothing is known of {program!r}: {said}"


def _parse_ours(program: str, words: list[str], monkeypatch, said: str) -> None:
    main = importlib.import_module(f"{OURS[program]}.main")
    with monkeypatch.context() as patch:
        for module in vars(main).values():
            if getattr(module, "HELP", None) and hasattr(module, "run"):
                patch.setattr(module, "run", _read_settings)
        try:
            code = main.main(words)
        except SystemExit as stopped:
            code = stopped.code
    assert code == 0, said


def _read_settings(arguments: argparse.Namespace) -> int:
    """Of the training's commands the flags that argparse does not know, too."""
    if hasattr(arguments, "preset"):
        from training.cli.flags import read_settings

        for file in arguments.config:
            Path(file).touch()
        read_settings(arguments)
    return 0


def _parse_script(words: list[str], monkeypatch, said: str) -> None:
    """`python file.py ...` or `python -m package.module ...` of this repository."""
    if words[0] == "-m":
        name, words = words[1], words[2:]
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    else:
        name, path, words = "documented_script", ROOT / words[0], words[1:]
    assert path.is_file(), said

    def read(parser: argparse.ArgumentParser, args=None, namespace=None) -> None:
        parser.parse_known_args(words)  # what it does not know is no SystemExit
        assert not parser.parse_known_args(words)[1], said
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", read)
        patch.setattr(sys, "path", [str(path.parent), *sys.path])
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
        scope = {"__name__": "__main__", "__file__": str(path), "__package__": name.rpartition(".")[0] or None}
        patch.setitem(sys.modules, "__main__", _module(scope))
        try:
            exec(code, sys.modules["__main__"].__dict__)
        except Parsed:
            return
        except SystemExit as stopped:
            raise AssertionError(said) from stopped
    raise AssertionError(f"{said}: the script read no arguments")


def _module(scope: dict) -> object:
    module = type(sys)("__main__")
    module.__dict__.update(scope)
    return module


def _check_pip(words: list[str], said: str) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extras in re.findall(r"\[([\w,]+)\]", said):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), said
    for option, value in zip(words, words[1:], strict=False):
        if option in ("-c", "-r"):
            assert (ROOT / value).is_file(), said
