"""The documentation is true: its commands and its Python run as they stand there, or are read by the real parsers."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields

import pytest
import torch
import yaml

from tests.helpers.pages import FOREIGN, KINDS, OURS, PAGES, ROOT, commands, parse, read_blocks

TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [block for page in PAGES for block in read_blocks(page)]
LONG = ("start.md", "training.md")  # pages that train, or make a video
STEPS = ["--trainer.max_steps", "2"]  # of every training, whatever the page says: the last flag wins


def runs(block) -> bool:
    return block.mark in ("", "refused") and block.language in ("sh", "python") and block.page != "README.md"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that looks like the repository's, as far as the pages use it."""
    for name in ("examples", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    return tmp_path


def run_command(words: list[str], where: str, monkeypatch) -> int:
    if words[0] in OURS:
        extra = STEPS if words[:2] == ["audio2img-train", "fit"] else []
        try:
            return importlib.import_module(OURS[words[0]]).main([*words[1:], *extra])
        except SystemExit as stopped:
            return stopped.code
    if words[0] == "python":
        return subprocess.run([sys.executable, *words[1:]]).returncode
    assert words[0] == "pip", f"{where}: {words[0]!r} is not run; mark the block as parsed"
    parse(words, monkeypatch)
    return 0


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page in LONG else page
        for page in sorted({block.page for block in BLOCKS if runs(block)})
    ],
)
def test_the_blocks_of_a_page_run_in_their_order(page, here, capsys, monkeypatch):
    blocks = [block for block in BLOCKS if block.page == page]
    scope = {"__name__": "__main__"}
    for number, block in enumerate(blocks):
        if not runs(block):
            continue
        if block.language == "python":
            exec(compile(block.text, block.where, "exec"), scope)
            continue
        for words in commands(block.text):
            capsys.readouterr()
            code = run_command(words, block.where, monkeypatch)
            said = capsys.readouterr().err
            if block.mark != "refused":
                assert code == 0, f"{block.where}: {' '.join(words)}\n{said}"
                continue
            told = blocks[number + 1]
            assert told.language == "text", f"{block.where}: the message must stand below"
            message = said.strip().splitlines()[-1]  # libraries may have said something before
            assert code == 2 and message == " ".join(told.text.split()), f"{block.where}: {said}"


def test_every_block_is_of_a_known_kind():
    for block in BLOCKS:
        assert (block.language, block.mark) in KINDS, f"{block.where}: ```{block.language} {block.mark}"
        for line in block.text.splitlines() if block.language == "text" else ():
            first = line.split()[0] if line.split() else ""
            assert first not in {*OURS, *FOREIGN, "python"}, f"{block.where}: a command in a block of text: {line}"
    for name, text in TEXTS.items():
        assert text.count("\n```") == 2 * sum(block.page == name for block in BLOCKS), f"{name}: a fence is not read"


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if (b.language, b.mark) == ("sh", "parsed")], ids=lambda b: b.where
)
def test_what_cannot_run_here_is_understood(block, here, monkeypatch):
    for words in commands(block.text):
        parse(words, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "audio2img generate rain.wav --colour red",
        "audio2img draw rain.wav",
        "audio2img-train fit --data x --trainer.learning_rat 1",
        "torchrun -m training fit --batch 4",
        "python benchmarks/log_mel.py --rounds 3",
        "python -m training.recipes.mini.train --data x",
        "python docs/nothing.py",
        "docker run audio2img app --hots 0.0.0.0",
        "docker build --build-arg CUDA=1 .",
        'pip install -e ".[everything]"',
        "pytest -m comfy",
        "make install",
    ],
)
def test_a_wrong_command_is_noticed(line, here, monkeypatch):
    (words,) = commands(line)
    with pytest.raises(AssertionError):
        parse(words, monkeypatch)


def test_the_pictures_are_of_the_training_that_is_told():
    script = (ROOT / "docs" / "figures.py").read_text(encoding="utf-8")
    flags = "".join(re.findall(r'"([^"]*)"', re.search(r"^OWN = \((.*?)^\)", script, re.DOTALL | re.MULTILINE)[1]))
    assert f"--teacher mini --encoder mini --output runs/own {flags}\n" in TEXTS["training.md"]


def test_the_code_and_the_settings_are_well_formed():
    from training.config import FitConfig

    for block in BLOCKS:
        if block.language == "python":
            ast.parse(block.text, block.where)
        elif block.language == "yaml":
            FitConfig.from_dict(yaml.safe_load(block.text))


def test_options_in_the_text_exist(capsys):
    from training.config import trainer_fields

    known = {"--help", "--version", "--gpus"}
    known |= {"--head", "--address", "--max-restarts", "--randomly-seed"}  # of Ray, torchrun and pytest
    for program, names in (("audio2img", "generate film hear app encode info convert init"), ("audio2img-train", "")):
        for name in (names or "fit prepare eval").split():
            with pytest.raises(SystemExit):
                importlib.import_module(OURS[program]).main([name, "--help"])
            known |= set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))
    for folder in ("benchmarks", "docs", "training/recipes/mini"):
        for script in (ROOT / folder).glob("*.py"):
            known |= set(re.findall(r'"(--[a-z][\w-]*)"', script.read_text(encoding="utf-8")))
    known |= {f"--trainer.{name}" for name in trainer_fields()}
    for name, text in TEXTS.items():
        for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)):
            for option in re.findall(r"(?<!\S)--[a-z][\w.-]*", span):
                assert option in known, f"{name}: {option}"


def test_the_list_of_packages_is_that_of_the_constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [tuple(line.split("==")) for line in lines if "==" in line]
    table = rows("\n" + TEXTS["packages.md"], "# Packages and their licences")
    listed = [(name, version) for name, version, _ in table]
    assert listed == pinned, "write it anew: python docs/packages.py"


def heading_names(text: str) -> set[str]:
    """Anchors as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE))
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page.name]):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() and file.is_relative_to(ROOT), f"{page.name}: {target}"
        if anchor:
            assert anchor in heading_names(file.read_text(encoding="utf-8")), f"{page.name}: {target}"


def test_every_page_and_picture_is_linked():
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page.name])
    }
    for page in PAGES[1:]:
        assert page in linked, f"no page links to {page.name}"
    for picture in (ROOT / "docs").glob("*.[pj][np]g"):
        assert picture in linked or picture.name in ("icon.png", "banner.png"), f"no page shows {picture.name}"
        assert picture.stat().st_size < 400_000, picture.name


def test_every_benchmark_is_told_of():
    for script in (ROOT / "benchmarks").rglob("*.py"):
        if "add_argument" in script.read_text(encoding="utf-8"):
            name = script.relative_to(ROOT / "benchmarks").as_posix()
            assert f"`{name}`" in TEXTS["measure.md"], name


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    part = text.split(f"\n{heading}\n", 1)[1]
    table = re.search(r"^\|.*\n\|[-| ]+\|\n((?:\|.*\n?)+)", part, re.MULTILINE)[1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_the_fields_of_a_checkpoint_and_their_defaults():
    from audio2img_core.encoder.config import AudioEncoderConfig
    from audio2img_core.encoder.heads import HeadConfig
    from audio2img_core.encoder.windows import WindowConfig

    text = TEXTS["checkpoint.md"]
    for heading, section in (("### `head`", HeadConfig), ("### `window`", WindowConfig)):
        said = {name.strip("`"): json.loads(default.strip("`")) for name, default, *_ in rows(text, heading)}
        assert said == {f.name: f.default for f in fields(section)}
        assert all(f.default is not MISSING for f in fields(section))
    kept = AudioEncoderConfig().to_dict()
    said = {name.strip("`"): default.strip("`") for name, default, *_ in rows(text, "### The config itself")}
    for name, default in said.items():
        assert name in kept
        if default and name not in ("backbone", "head", "window"):
            assert json.loads(default) == kept[name], name


def test_the_tensors_of_a_checkpoint():
    from audio2img_core.random_init import make_encoder

    names = set()
    for target in ("sd15", "sdxl"):
        for head in ("query", "conv"):
            encoder = make_encoder(target, head=head)
            width, pooled = encoder.config.token_dim, encoder.config.pooled_dim
            null_pooled = None if pooled is None else torch.ones(pooled)
            encoder.set_teacher(torch.ones(77, width), null_pooled=null_pooled)
            names |= encoder.state_dict().keys()
    told = [p for first, *_ in rows(TEXTS["checkpoint.md"], "## Tensors") for p in re.findall(r"`([^`]+)`", first)]
    patterns = [pattern.replace(".N.", ".*.") for pattern in told]
    for name in names:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name
    for pattern in patterns:  # that of masking comes with the published backbone only
        assert pattern == "backbone.masked_spec_embed" or fnmatch.filter(names, pattern), pattern


def test_the_targets():
    from audio2img_core.targets import TARGETS

    said = {
        name.strip("`"): (family, tokens, pooled)
        for name, family, tokens, pooled, *_ in rows(TEXTS["models.md"], "## Which encoder fits which model")
    }
    assert said == {t.name: (t.family, f"77 x {t.width}", str(t.pooled_width or "-")) for t in TARGETS.values()}


def test_the_licences_are_complete():
    """Every shipped file that is no program, text or setting of ours stands in the list, and nothing else does."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = (".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".jsonl", ".js", ".slurm", ".typed")
    shipped = [
        name
        for name in listed.splitlines()
        if not name.endswith(ours)
        and "/" in name
        and not name.startswith((".github/", ".ci/"))
        and "LICENSE" not in name
    ]
    table = [
        (re.findall(r"`([^`]+)`", cells[0]), cells[-1]) for cells in rows(TEXTS["licences.md"], "## What is shipped")
    ]
    patterns = [pattern for found, _ in table for pattern in found]
    for name in shipped:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), f"{name} is not in docs/licences.md"
    for pattern in patterns:
        assert any(fnmatch.fnmatch(name, pattern) for name in listed.splitlines()), f"{pattern}: nothing is called so"
    heard = (json.loads(line) for line in (ROOT / "tests" / "mini" / "sounds.jsonl").read_text().splitlines())
    (licences,) = [said for found, said in table if "tests/mini/*.opus" in found]
    for licence in {row["licence"] for row in heard}:
        assert licence in licences, licence
