"""The pack in ComfyUI's own page, driven with Chromium: `COMFYUI_PATH=... pytest -m comfyui`.

Needs `pip install playwright` and a Chromium (Debian's package, or $CHROMIUM). Screenshots go to $SCREENSHOTS, if set.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.helpers import workflows
from tests.helpers.audio import sine, write_audio

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
NODES = (
    *("LoadAudio", "LoadEncoder", "Encode", "ToConditioning", "Blend", "Schedule", "LoadMini", "Spectrogram"),
    "Similarity",
)
pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not os.environ.get("COMFYUI_PATH"), reason="COMFYUI_PATH names no ComfyUI checkout"),
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(server, browser):
    """ComfyUI's page with an empty graph."""
    address, _ = server
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    opened = context.new_page()
    opened.goto(address, wait_until="domcontentloaded")
    opened.wait_for_function(
        "!!(window.app?.graph && window.LiteGraph?.registered_node_types?.['Audio2ImgLoadAudio'])", timeout=90_000
    )
    opened.wait_for_timeout(2000)  # the frontend opens its first workflow
    opened.evaluate("app.graph.clear(); app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]")
    yield opened
    context.close()


def add(page, key, *, x=200, y=120, width=420, height=320):
    """Add a node; its id."""
    return page.evaluate(
        """([key, x, y, width, height]) => {
            const node = LiteGraph.createNode(key);
            node.pos = [x, y];
            node.size = [width, height];
            app.graph.add(node);
            app.canvas.setDirty(true, true);
            return node.id;
        }""",
        [f"Audio2Img{key}" if key in NODES else key, x, y, width, height],
    )


def widgets(page, node):
    return dict(page.evaluate("id => app.graph.getNodeById(id).widgets.map(w => [w.name, w.value])", node))


def choose(page, node, name, value):
    page.evaluate(
        """([id, name, value]) => {
            const widget = app.graph.getNodeById(id).widgets.find(each => each.name === name);
            widget.value = value;
            widget.callback?.(value);
        }""",
        [node, name, value],
    )


def heard(page, node):
    """Waits until the node shows its sound; seconds of it."""
    page.wait_for_function("id => app.graph.getNodeById(id).audio2imgSound.sound !== null", arg=node)
    return page.evaluate("id => app.graph.getNodeById(id).audio2imgSound.sound.seconds", node)


def keep(page, name):
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_every_node_can_be_added_and_drawn(page):
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    for number, key in enumerate(NODES):
        add(page, key, x=60 + number % 3 * 450, y=80 + number // 3 * 280, width=400, height=240)
    page.wait_for_timeout(1500)
    keep(page, "nodes")
    assert page.evaluate("app.graph._nodes.map(node => node.comfyClass)") == [f"Audio2Img{key}" for key in NODES]
    assert not page.evaluate("app.graph._nodes.some(node => node.has_errors)") and not errors


def test_a_part_is_dragged_on_the_waveform_and_its_edges_moved(page):
    node = add(page, "LoadAudio")
    choose(page, node, "audio_file", "noise.flac")
    assert heard(page, node) == pytest.approx(4.0, abs=0.02)
    page.wait_for_timeout(500)
    box = page.locator(".audio2img-sound canvas").bounding_box()

    def drag(begin, end):
        for share, act in ((begin, page.mouse.down), (end, page.mouse.up)):
            page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2, steps=6)
            act()

    drag(0.25, 0.75)
    got = widgets(page, node)
    assert got["start"] == pytest.approx(1.0, abs=0.05) and got["duration"] == pytest.approx(2.0, abs=0.05)
    keep(page, "trim")
    drag(0.75, 0.5)  # the right edge
    got = widgets(page, node)
    assert got["start"] == pytest.approx(1.0, abs=0.05) and got["duration"] == pytest.approx(1.0, abs=0.05)
    drag(0.9, 0.6)  # elsewhere a new part begins, backwards too
    got = widgets(page, node)
    assert got["start"] == pytest.approx(2.4, abs=0.05) and got["duration"] == pytest.approx(1.2, abs=0.05)
    page.mouse.dblclick(box["x"] + 20, box["y"] + 20)
    got = widgets(page, node)
    assert got["start"] == got["duration"] == 0


def test_the_player_plays_the_part(page):
    node = add(page, "LoadAudio")
    choose(page, node, "audio_file", "noise.flac")
    heard(page, node)
    choose(page, node, "start", 1.0)
    choose(page, node, "duration", 0.5)
    page.evaluate("document.querySelector('.audio2img-sound audio').play()")
    page.wait_for_timeout(300)
    at, source = page.evaluate("(p => [p.currentTime, p.src])(document.querySelector('.audio2img-sound audio'))")
    assert 1.0 <= at < 2.0 and "filename=noise.flac" in source
    page.wait_for_function("document.querySelector('.audio2img-sound audio').paused")
    assert page.evaluate("document.querySelector('.audio2img-sound audio').currentTime") < 2.5


def test_a_clip_is_uploaded_and_chosen(page, server, tmp_path):
    _, base = server
    clip = write_audio(tmp_path / "my clip.ogg", sine(1.5, rate=44100), 44100)
    node = add(page, "LoadAudio")
    choose(page, node, "start", 0.7)
    with page.expect_file_chooser() as chooser:
        page.evaluate("id => app.graph.getNodeById(id).widgets.find(w => w.type === 'button').callback()", node)
    chooser.value.set_files(clip)
    page.wait_for_function(
        "id => app.graph.getNodeById(id).widgets.some(w => w.name === 'audio_file' && w.value === 'my clip.ogg')",
        arg=node,
    )
    assert (base / "input" / "my clip.ogg").read_bytes() == clip.read_bytes()
    assert heard(page, node) == pytest.approx(1.5, abs=0.05) and widgets(page, node)["start"] == 0


def test_a_file_in_a_folder_is_shown_and_a_missing_one_said(page):
    node = add(page, "LoadAudio")
    choose(page, node, "audio_file", "deep/tone.wav")
    assert heard(page, node) == pytest.approx(2.0, abs=0.02)
    choose(page, node, "audio_file", "gone.wav")
    page.wait_for_function("id => app.graph.getNodeById(id).audio2imgSound.message.includes('no such file')", arg=node)


def test_an_example_is_shown_and_played(page):
    node = add(page, "LoadAudio")
    choose(page, node, "audio_file", "piano.flac [example]")
    assert heard(page, node) == pytest.approx(5.0, abs=0.1)
    page.evaluate("document.querySelector('.audio2img-sound audio').play()")


def test_a_workflow_runs_and_its_picture_is_seen(page):
    """Load Audio -> Preview Spectrogram -> Preview Image: needs no weights."""
    sound, drawn, shown = (
        add(page, key, x=40 + number * 460, width=420, height=400)
        for number, key in enumerate(("LoadAudio", "Spectrogram", "PreviewImage"))
    )
    choose(page, sound, "audio_file", "deep/tone.wav")
    for a, b in ((sound, drawn), (drawn, shown)):
        page.evaluate("([a, b]) => app.graph.getNodeById(a).connect(0, app.graph.getNodeById(b), 0)", [a, b])
    page.evaluate("app.queuePrompt(0, 1)")
    page.wait_for_function("id => app.graph.getNodeById(id).imgs?.[0]?.naturalWidth > 0", arg=shown, timeout=60_000)
    page.wait_for_timeout(800)
    keep(page, "spectrogram")
    size = page.evaluate("id => (i => [i.naturalWidth, i.naturalHeight])(app.graph.getNodeById(id).imgs[0])", shown)
    assert size == [960, 420]


@pytest.mark.parametrize("name", workflows.NAMES)
def test_example_workflows_open_without_a_missing_node(page, name):
    page.evaluate("workflow => app.loadGraphData(workflow)", workflows.load(name))
    page.wait_for_timeout(1500)
    keep(page, f"workflow-{name}")
    kinds = page.evaluate("app.graph._nodes.map(node => [node.type, !!LiteGraph.registered_node_types[node.type]])")
    assert kinds and all(known for _, known in kinds), kinds
    assert len(kinds) == len(workflows.load(name)["nodes"])
    posted = page.evaluate("async () => (await app.graphToPrompt()).output")
    known = page.evaluate("async () => await (await fetch('/object_info')).json()")
    ours = workflows.to_prompt(workflows.load(name), known)
    assert posted.keys() == ours.keys()
    for key, node in ours.items():
        given = {each: value for each, value in posted[key]["inputs"].items() if each != "preview"}  # of Preview Any
        assert given == node["inputs"], node["class_type"]


def test_sound_to_image_is_run_and_its_picture_seen(page):
    page.evaluate("workflow => app.loadGraphData(workflow)", workflows.load("sound_to_image"))
    page.wait_for_timeout(1500)
    page.evaluate("app.queuePrompt(0, 1)")
    save = "app.graph._nodes.find(node => node.type === 'SaveImage')"
    page.wait_for_function(f"{save}.imgs?.[0]?.naturalWidth === 128", timeout=120_000)
    page.wait_for_timeout(800)
    keep(page, "sound_to_image")
    assert page.evaluate(f"{save}.imgs.length") == 1
