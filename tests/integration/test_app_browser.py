"""`audio2img app` as a visitor sees it, driven with Chromium.

Needs a Chromium (Debian's package, or $CHROMIUM). Screenshots go to $SCREENSHOTS, if set;
`docs/app.jpg` is the one named app-history.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from audio2img_core.generation.png import read_settings
from tests.helpers.audio import noise, sine, write_audio

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("gradio", reason='needs pip install "audio2img[app]"')

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")]
# A microphone that plays a beep, and no question to the visitor.
FLAGS = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="module")
def address():
    """Of the page, served by the command with its default models and short limits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "audio2img_core.cli", "app", "--port", str(port), "--max-seconds", "10"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(address, browser):
    """The page, opened; no other host may have been asked for anything when it is closed."""
    context = browser.new_context(viewport={"width": 1360, "height": 1100})
    opened = context.new_page()
    hosts = set()
    opened.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    opened.goto(address)
    opened.wait_for_selector("#draw")
    opened.wait_for_timeout(1000)
    yield opened
    context.close()
    assert {host for host in hosts if host} <= {address.split("/")[2]}


def give(page, path):
    page.set_input_files("#sound input[type=file]", path)


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def picture(page):
    """The file name of the picture that is open, when there is one."""
    shown = page.locator("#pictures .preview img").first
    shown.wait_for(timeout=60_000)
    return shown.get_attribute("src").rsplit("/", 1)[-1]


def says(page, words):
    page.get_by_test_id("toast-body").get_by_text(words).first.wait_for(timeout=30_000)


def keep(page, name):
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"app-{name}.png", full_page=True)


def test_a_clip_is_heard_drawn_and_downloaded(page, examples, tmp_path):
    keep(page, "empty")
    give(page, examples / "piano.flac")
    page.locator("#heard").get_by_text("%").first.wait_for(timeout=60_000)
    page.locator("#spectrogram img").wait_for()
    press(page, "Draw")
    name = picture(page)
    assert re.fullmatch(r"piano-\d+\.png", name)
    page.locator("#settings").get_by_text("seed").wait_for()
    page.wait_for_timeout(500)
    keep(page, "picture")
    with page.expect_download() as download:
        press(page, "Download PNG with its settings")
    download.value.save_as(tmp_path / "got.png")
    assert read_settings(tmp_path / "got.png")["sound"] == "piano.flac"
    assert name == f"piano-{read_settings(tmp_path / 'got.png')['seed']}.png"


def test_an_example_is_drawn_several_times_and_an_older_picture_seen_again(page):
    page.get_by_text("a bird", exact=True).click()
    page.locator("#heard").get_by_text("%").first.wait_for(timeout=60_000)
    press(page, "Draw")
    first = picture(page)
    page.get_by_label("number input for Pictures", exact=True).fill("3")
    press(page, "Draw")
    page.wait_for_function("document.querySelectorAll('#history .grid-container img').length === 4", timeout=60_000)
    page.wait_for_timeout(500)
    keep(page, "history")
    assert picture(page) != first
    page.locator("#history .grid-container button").last.click()
    page.wait_for_function("name => document.querySelector('#pictures .preview img').src.endsWith(name)", arg=first)


def test_a_film_is_made_and_plays(page, tmp_path):
    give(page, write_audio(tmp_path / "two.wav", sine(0.6), 16_000))
    page.get_by_role("tab", name="Film").click()
    press(page, "Make the film")
    page.wait_for_function("document.querySelector('#film video')?.duration > 0.4", timeout=120_000)
    page.wait_for_timeout(500)
    keep(page, "film")


def test_a_recording_is_heard(page):
    page.locator("#sound").get_by_label("Record audio").click()
    page.locator("#sound .record-button, #sound button.record").first.click()
    page.wait_for_timeout(1500)
    page.locator("#sound .stop-button, #sound .stop-button-paused").first.click()
    page.locator("#heard").get_by_text("%").first.wait_for(timeout=60_000)
    keep(page, "recorded")


def test_nothing_given_is_said(page):
    press(page, "Draw")
    says(page, "nothing to hear: drop a sound, record one or choose an example")
    keep(page, "nothing")


def test_a_text_file_that_is_named_wav_is_said(page, tmp_path):
    (tmp_path / "text.wav").write_text("hello, this is text\n" * 100)
    give(page, tmp_path / "text.wav")
    says(page, "text.wav cannot be decoded")
    keep(page, "text")


def test_a_long_sound_is_said_and_a_part_of_it_heard(page, tmp_path):
    give(page, write_audio(tmp_path / "long.wav", noise(12.0), 16_000))
    says(page, "long.wav is longer than 10 s")
    page.get_by_text("Only a part of it").click()
    page.get_by_label("Length").fill("2")
    press(page, "Hear this part")
    page.locator("#heard").get_by_text("%").first.wait_for(timeout=60_000)


def test_a_sound_is_trimmed_on_its_waveform(page, examples):
    give(page, examples / "piano.flac")
    page.locator("#heard").get_by_text("%").first.wait_for(timeout=60_000)
    before = page.locator("#spectrogram img").get_attribute("src")
    page.get_by_label("Trim audio to selection").click()
    page.locator("#sound").get_by_role("button", name="Trim", exact=True).click()
    page.wait_for_function("old => document.querySelector('#spectrogram img')?.src !== old", arg=before, timeout=60_000)
    keep(page, "trimmed")


def test_the_api_page_shows_the_endpoints(page):
    page.get_by_role("button", name=re.compile("API")).click()
    page.get_by_text("/draw").first.wait_for()
    page.get_by_text("/film").first.wait_for()
    keep(page, "api")
