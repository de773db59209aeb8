"""The page's endpoints, called over HTTP as its visitors call them, on a server that really runs, with tiny models."""

import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.audio import noise, sine, write_audio

gradio_client = pytest.importorskip("gradio_client", reason='needs pip install "audio2img[app]"')
httpx = pytest.importorskip("httpx")  # comes with it

from audio2img_core import AudioToImagePipeline, GenerationSettings, load_audio  # noqa: E402
from audio2img_core.cli import main  # noqa: E402
from audio2img_core.generation.png import read_settings  # noqa: E402

pytestmark = pytest.mark.usefixtures("models_loaded_once")
ROOT = Path(__file__).parents[2]
CAPTIONS = "a piano\na dog\nrain"


@pytest.fixture(scope="module")
def models(tiny_folders):
    folder = tiny_folders("sd15")
    return str(folder / "encoder"), str(folder / "diffusion")


@pytest.fixture(scope="module")
def address(models):
    """Of a running page that takes 5 seconds of sound and files of 2 MB."""
    from audio2img_core.app.server import serve
    from audio2img_core.app.studio import Limits, Studio

    limits = Limits(seconds=5, megabytes=2, frames=30, captions=20)
    studio = Studio(AudioToImagePipeline.from_pretrained(*models), limits=limits)
    page, where = serve(studio, port=free_port())
    yield where
    page.close(verbose=False)
    studio.close()


@pytest.fixture(scope="module")
def client(address, tmp_path_factory):
    return gradio_client.Client(address, verbose=False, download_files=str(tmp_path_factory.mktemp("answers")))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Name -> file."""
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "text.wav").write_text("hello, this is text\n" * 50)
    (folder / "empty.wav").write_bytes(b"")
    nan = torch.full((1600,), 0.1)
    nan[7] = float("nan")
    write_audio(folder / "nan.wav", nan, 16_000, codec="pcm_f32le")
    write_audio(folder / "none.wav", torch.zeros(0), 16_000)
    write_audio(folder / "long.wav", noise(6.0), 16_000)
    write_audio(folder / "song.wav", noise(30.0), 16_000)
    write_audio(folder / "tone.wav", torch.cat([sine(1.0, freq=200.0), noise(1.0)]), 16_000)
    write_audio(folder / "big.wav", noise(12.0, rate=96_000), 96_000)
    Image.new("RGB", (8, 8)).save(folder / "picture.wav", format="PNG")
    return {path.name: path for path in folder.iterdir()}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def draw(client, sound, **options):
    """Pictures as arrays, their files, their settings."""
    options = {"steps": 2, "seed": 1, **options}
    drawn, settings = client.predict(gradio_client.handle_file(sound), **options, api_name="/draw")
    paths = [Path(each["image"]) for each in drawn]
    return [np.asarray(Image.open(path)) for path in paths], paths, settings


def test_a_sound_is_seen_and_named(client, examples):
    sound = gradio_client.handle_file(examples / "drum.flac")
    spectrogram, heard = client.predict(sound, captions=CAPTIONS, api_name="/hear")
    assert Image.open(spectrogram).size == (680, 320)
    scores = {each["label"]: each["confidence"] for each in heard["confidences"]}
    assert scores.keys() == set(CAPTIONS.splitlines()) and sum(scores.values()) == pytest.approx(1, abs=1e-4)
    assert heard["label"] == max(scores, key=scores.get)
    cut, _ = client.predict(sound, start=0.1, duration=0.2, captions=CAPTIONS, api_name="/hear")
    assert Image.open(cut).tobytes() != Image.open(spectrogram).tobytes()


def test_a_model_without_captions_shows_the_spectrogram_alone(client, examples):
    spectrogram, heard = client.predict(gradio_client.handle_file(examples / "drum.flac"), api_name="/hear")
    assert Image.open(spectrogram).size == (680, 320) and heard == {}


def test_a_seed_draws_what_the_command_line_draws(client, examples, tmp_path, models, capsys):
    (pixels,), (path,), _ = draw(client, examples / "drum.flac", seed=9, prompt="a bird", prompt_weight=0.3, start=0.1)
    (again,), _, _ = draw(client, examples / "drum.flac", seed=9, prompt="a bird", prompt_weight=0.3, start=0.1)
    (other,), _, _ = draw(client, examples / "drum.flac", seed=10, prompt="a bird", prompt_weight=0.3, start=0.1)
    assert np.array_equal(pixels, again) and not np.array_equal(pixels, other)
    command = ["generate", examples / "drum.flac", "-o", tmp_path / "cli.png", "--encoder", models[0]]
    command += ["--diffusion", models[1], "--seed", 9, "--steps", 2, "--start", 0.1]
    assert main([str(word) for word in [*command, "--prompt", "a bird", "--prompt-weight", 0.3]]) == 0
    assert np.array_equal(pixels, np.asarray(Image.open(tmp_path / "cli.png")))
    told = read_settings(path)
    assert told == read_settings(tmp_path / "cli.png")
    assert told["encoder"] == "encoder" and told["diffusion"] == "diffusion"  # without the folders of this machine


def test_pictures_carry_their_settings(client, examples, capsys):
    _, paths, settings = draw(client, examples / "drum.flac", seed=4, count=3, negative="noise ☃", guidance=2)
    assert [path.name for path in paths] == ["drum-4.png", "drum-5.png", "drum-6.png"]
    assert [read_settings(path) for path in paths] == settings
    assert settings[2]["seed"] == 6 and settings[2]["negative"] == "noise ☃" and settings[2]["guidance"] == 2
    assert main(["info", str(paths[2])]) == 0 and "drum.flac" in capsys.readouterr().out


def test_a_seed_by_chance_is_told(client, examples):
    seeds = {draw(client, examples / "drum.flac", seed=None)[2][0]["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_a_film_with_its_sound(client, sounds):
    path, settings = client.predict(
        gradio_client.handle_file(sounds["tone.wav"]), steps=2, seed=3, fps=3, smoothing=0, api_name="/film"
    )
    path = path["video"] if isinstance(path, dict) else path
    assert settings["seed"] == 3 and settings["fps"] == 3 and Path(path).name == "tone.mp4"
    assert (settings["sound"], settings["encoder"], settings["diffusion"]) == ("tone.wav", "encoder", "diffusion")
    with av.open(path) as container:
        assert len(list(container.decode(video=0))) == 6
    assert load_audio(path)[0].shape[1] == pytest.approx(32_000, abs=2500)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "nothing to hear: drop a sound"),
        ("text.wav", "text.wav cannot be decoded"),
        ("picture.wav", "picture.wav"),
        ("empty.wav", "empty.wav is empty"),
        ("none.wav", "none.wav holds no sound"),
        ("nan.wav", "nan.wav holds NaN"),
        ("long.wav", "long.wav is longer than 5 s"),
    ],
)
@pytest.mark.parametrize("endpoint", ["/hear", "/draw", "/film"])
def test_a_bad_sound_is_said_in_a_line(client, sounds, name, words, endpoint):
    sound = None if name is None else gradio_client.handle_file(sounds[name])
    with pytest.raises(gradio_client.exceptions.AppError) as caught:
        client.predict(sound, api_name=endpoint)
    said = str(caught.value)
    assert words in said and "\n" not in said and "/" not in said.replace("a sound or video", "")


def test_a_part_of_a_long_sound_is_drawn(client, sounds):
    assert len(draw(client, sounds["long.wav"], duration=5, steps=1)[1]) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": 3}, "start 3 s is at or past the end of tone.wav"),
        ({"start": -1}, "start must be"),
        ({"duration": 0}, "duration must be"),
        ({"steps": 0}, "steps must be between 1"),
        ({"steps": 101}, "steps must be between 1 and 100, not 101"),
        ({"steps": "many"}, "Steps must be a number"),
        ({"count": 0}, "count must be at least 1"),
        ({"count": 9}, "count must be between 1 and 8, not 9"),
        ({"seed": -1}, "seed must be between 0"),
        ({"guidance": -1}, "guidance must be"),
        ({"sound_strength": -1}, "sound_strength must be"),
        ({"prompt": "x", "prompt_weight": 3}, "prompt_weight must be between 0 and 1, not 3"),
    ],
)
def test_a_bad_value_is_said_by_its_name(client, sounds, options, words):
    with pytest.raises(gradio_client.exceptions.AppError, match=words):
        draw(client, sounds["tone.wav"], **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"fps": 0}, "fps must be above 0"), ({"fps": 24}, "at most 30"), ({"smoothing": -1}, "smoothing must be")],
)
def test_a_film_that_cannot_be_is_said(client, sounds, options, words):
    with pytest.raises(gradio_client.exceptions.AppError, match=words):
        client.predict(gradio_client.handle_file(sounds["tone.wav"]), steps=1, **options, api_name="/film")


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        ("one", "at least two captions"),
        ("\n".join(f"a {i}" for i in range(21)), "captions: at most 20 are compared at once, not 21"),
        ("a dog\n" + "x" * 201, "has 201 characters; at most 200"),
    ],
)
def test_captions_have_limits(client, sounds, captions, words):
    with pytest.raises(gradio_client.exceptions.AppError, match=words):
        client.predict(gradio_client.handle_file(sounds["tone.wav"]), captions=captions, api_name="/hear")


def test_names_of_files_are_no_html(client, tmp_path):
    path = tmp_path / "a <b> & c.wav"
    path.write_text("text")
    with pytest.raises(gradio_client.exceptions.AppError) as caught:
        draw(client, path)
    assert "<b>" not in str(caught.value)


def test_a_file_that_is_too_big_is_not_taken(client, sounds):
    with pytest.raises(Exception, match="(?i)size|413|too large"):
        draw(client, sounds["big.wav"])


def test_twenty_requests_at_once_get_their_own_answers_in_order(client, address, sounds):
    with open(sounds["tone.wav"], "rb") as file:
        uploaded = httpx.post(f"{address}/gradio_api/upload", files={"files": file}).json()[0]
    sound = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
    events = []
    for seed in range(20):  # all are posted before the first one is asked for
        asked = {"sound": sound, "steps": 3, "seed": seed}
        events.append(httpx.post(f"{address}/gradio_api/call/v2/draw", json=asked).json()["event_id"])

    def answer(event):
        text = httpx.get(f"{address}/gradio_api/call/v2/draw/{event}", timeout=300).text
        (drawn, (settings,)) = json.loads(text.split("event: complete\ndata: ")[1])
        return Path(drawn[0]["image"]["path"]), settings["seed"]  # the file lies on this machine

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(answer, events))
    assert [seed for _, seed in answers] == list(range(20))
    times = [path.stat().st_mtime_ns for path, _ in answers]
    assert times == sorted(times)
    pixels = [Image.open(path).tobytes() for path, _ in answers]
    assert len(set(pixels)) == 20 and draw(client, sounds["tone.wav"], steps=3, seed=13)[0][0].tobytes() == pixels[13]


def test_what_is_kept_of_callers_does_not_grow(models, sounds, monkeypatch):
    from audio2img_core.app import server
    from audio2img_core.app.studio import Studio

    monkeypatch.setattr(server, "_SESSIONS", 3)
    studio = Studio(AudioToImagePipeline.from_pretrained(*models))
    page, where = server.serve(studio, port=free_port())
    try:
        with open(sounds["tone.wav"], "rb") as file:
            uploaded = httpx.post(f"{where}/gradio_api/upload", files={"files": file}).json()[0]
        for seed in range(8):
            asked = {"sound": {"path": uploaded, "meta": {"_type": "gradio.FileData"}}, "steps": 1, "seed": seed}
            event = httpx.post(f"{where}/gradio_api/call/v2/draw", json=asked).json()["event_id"]
            assert "complete" in httpx.get(f"{where}/gradio_api/call/v2/draw/{event}", timeout=300).text
        assert 1 <= len(page.app.state_holder.session_data) <= 4
    finally:
        page.close(verbose=False)
        studio.close()


@pytest.mark.slow
def test_pictures_are_drawn_between_the_windows_and_pictures_of_a_film(models, sounds):
    """A visitor does not wait for the whole film of another, neither while it is heard nor while it is drawn."""
    from audio2img_core.app.studio import Studio
    from audio2img_core.conditioning.schedule import ScheduleSettings

    studio, order = Studio(AudioToImagePipeline.from_pretrained(*models)), []
    heard, drawn = threading.Event(), threading.Event()

    def reported(name, begun, done, total):
        order.append((name, done, total))
        begun.set()

    with ThreadPoolExecutor(2) as pool:
        film = pool.submit(
            studio.film, str(sounds["song.wav"]), GenerationSettings(steps=1), ScheduleSettings(fps=6),
            on_hear=lambda *steps: reported("hearing", heard, *steps),
            on_step=lambda *steps: reported("drawing", drawn, *steps),
        )  # fmt: skip
        for begun in (heard, drawn):
            assert begun.wait(60)
            studio.draw(str(sounds["tone.wav"]), GenerationSettings(steps=1))
            order.append(("visitor",))
        film.result(timeout=300)
    studio.close()
    first, second = (place for place, what in enumerate(order) if what == ("visitor",))
    assert order[first - 1][0] == "hearing" and order[first - 1][1] < order[first - 1][2]
    assert order[second - 1][0] == "drawing" and order[second - 1][1] < order[second - 1][2]


def test_turns_are_taken_in_the_order_in_which_they_are_asked_for():
    from audio2img_core.app.turns import Turns

    turns, order = Turns(), []

    def ask(name):
        with turns:
            order.append(name)

    with ThreadPoolExecutor(8) as pool, turns:
        for name in range(8):
            pool.submit(ask, name)
            while turns._given < name + 2:  # this one's ticket
                time.sleep(0.001)
        turns.pass_on()
        order.append("passed on")
    assert order == [*range(8), "passed on"]
    with turns, pytest.raises(ValueError, match="being closed"):
        turns.close(timeout=0)
        turns.pass_on()
    with pytest.raises(ValueError, match="being closed"), turns:
        raise AssertionError


def test_two_visitors_with_their_own_sounds(address, sounds, examples):
    def visit(path):
        visitor = gradio_client.Client(address, verbose=False)
        return [draw(visitor, path, steps=1, seed=seed)[2][0]["sound"] for seed in range(3)]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(visit, [sounds["tone.wav"], examples / "drum.flac"])
    assert first == ["tone.wav"] * 3 and second == ["drum.flac"] * 3


def test_the_api_is_documented_and_holds_nothing_else(client):
    info = client.view_api(return_format="dict")["named_endpoints"]
    assert info.keys() == {"/hear", "/draw", "/film"}
    optional = [each["parameter_name"] for each in info["/draw"]["parameters"] if each["parameter_has_default"]]
    assert len(optional) == len(info["/draw"]["parameters"]) - 1  # all but the sound


def test_the_page_names_no_other_host(address):
    text = urllib.request.urlopen(address, timeout=30).read().decode()
    config = json.loads(urllib.request.urlopen(f"{address}/config", timeout=30).read())
    assert "fonts.googleapis" not in text and config["analytics_enabled"] is False
    assert config["max_file_size"] == 2_000_000


def test_examples_are_ours_or_none(tmp_path):
    from audio2img_core.app.server import find_examples

    assert [path.name for path, _ in find_examples()] == [
        *("piano.flac", "bird.flac", "rain.flac", "drum.flac", "choir.flac"),
    ]
    assert find_examples(tmp_path) == []  # a folder of that name that is not ours


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "0"], "--port must be between 1 and 65535"),
        (["--max-seconds", "0"], "--max-seconds must be above 0"),
        (["--max-megabytes", "nan"], "--max-megabytes must be above 0"),
        (["--encoder", "/nowhere"], "no such encoder"),
    ],
)
def test_the_command_says_what_is_wrong(capsys, words, message):
    assert main(["app", *words]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and message in errors[0]


def test_a_port_that_is_taken(capsys, models):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["app", "--encoder", models[0], "--diffusion", models[1], "--port", port]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and f"--port {port}: Address already in use; choose another --port" in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["SIGTERM", "SIGINT"])
def test_the_command_serves_until_it_is_stopped(models, stop):
    port = free_port()
    line = [sys.executable, "-m", "audio2img_core.cli", "app", "--port", str(port)]
    process = subprocess.Popen(
        [*line, "--encoder", models[0], "--diffusion", models[1]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == f"audio2img: http://127.0.0.1:{port} (stop with Ctrl-C)\n"
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30).status == 200
    process.send_signal(getattr(signal, stop))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ""


@pytest.mark.slow
def test_without_gradio_one_line_says_how_to_get_it():
    code = (
        "import sys, audio2img_core.generation.pipeline, audio2img_core.generation.video, audio2img_core.app.studio\n"
        "from audio2img_core.cli import main\n"
        "assert 'gradio' not in sys.modules\n"
        "sys.modules['gradio'] = None\nraise SystemExit(main(['app']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    # Above it may stand what transformers and torchao say of themselves: they were imported before the command began.
    assert done.stderr.splitlines()[-1] == 'audio2img: error: the page needs Gradio: pip install "audio2img[app]"'
    assert done.returncode == 2


@pytest.mark.parametrize("language", ["python", "sh"])
def test_the_examples_of_the_documentation_run(address, tmp_path, language):
    text = (ROOT / "docs" / "app.md").read_text(encoding="utf-8").split("## By program")[1]
    (code,) = re.findall(rf"```{language} served\n(.*?)```", text, re.DOTALL)
    code = code.replace("http://127.0.0.1:7860", address).replace(
        'print(heard["label"])', ""
    )  # the tiny model has none
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    line = [sys.executable, "-c", code] if language == "python" else ["sh", "-e", "-c", code]
    if language == "sh" and not shutil.which("curl"):
        pytest.skip("no curl")
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if language == "sh":
        assert read_settings(tmp_path / "piano.png")["seed"] == 1
    else:
        assert re.search(r"piano-1\.png 1$", done.stdout.strip())


def test_files_of_the_server_cannot_be_named(address, tmp_path):
    secret = write_audio(tmp_path / "secret.wav", noise(0.5), 16_000)
    for path in (ROOT / "examples" / "captions.jsonl", ROOT / "pyproject.toml", "/etc/hostname"):
        asked = {"sound": {"path": str(path), "meta": {"_type": "gradio.FileData"}}, "steps": 1}
        event = httpx.post(f"{address}/gradio_api/call/v2/draw", json=asked).json()["event_id"]
        answer = httpx.get(f"{address}/gradio_api/call/v2/draw/{event}", timeout=60).text
        assert "event: error" in answer and "event: complete" not in answer
        assert httpx.get(f"{address}/gradio_api/file={path}").status_code in (403, 404)
    assert httpx.get(f"{address}/gradio_api/file={secret}").status_code in (403, 404)


def ask(address, endpoint, **values):
    """What the API answers to a request that it takes as it is, without the client's own checks."""
    posted = httpx.post(f"{address}/gradio_api/call/v2/{endpoint}", json=values)
    if posted.status_code != 200:
        return f"event: error\n{posted.text}"
    return httpx.get(f"{address}/gradio_api/call/v2/{endpoint}/{posted.json()['event_id']}", timeout=60).text


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A sound and a picture on the server that no visitor gave it."""
    folder = tmp_path_factory.mktemp("private")
    write_audio(folder / "secret.wav", noise(0.5), 16_000)
    Image.new("RGB", (8, 8)).save(folder / "secret.png")
    return folder


@pytest.fixture(scope="module")
def uploaded(address, sounds):
    """The folder of uploads and a sound in it."""
    with open(sounds["tone.wav"], "rb") as file:
        path = Path(httpx.post(f"{address}/gradio_api/upload", files={"files": file}).json()[0])
    return path.parents[1], path


PLACES = [
    "{secret}",
    "/{secret}",
    "{uploads}/../{up}{secret}",
    "{upload}/../../{up}{secret}",
    "../{up}{secret}",
    "{uploads}/link.wav",
    "{uploads}/linked/secret.wav",
    "{uploads}",
    "{upload}\0",
    "{secret}\0.wav",
    "file://{secret}",
    "file:{secret}",
    "..\\..\\secret.wav",
    "C:\\secret.wav",
    "\\\\localhost\\share\\secret.wav",
    "/etc/hostname",
    "/proc/self/environ",
    "/dev/zero",
    "~/secret.wav",
    "",
    ".",
]


MORE = [{"is_stream": True}, {"url": "{secret}"}, {"url": "/gradio_api/file={secret}"}, {"orig_name": "{secret}"}]


@pytest.mark.parametrize(("place", "more"), [(place, {}) for place in PLACES] + [(PLACES[0], more) for more in MORE])
def test_no_sound_of_the_server_can_be_named(address, private, uploaded, place, more):
    uploads, upload = uploaded
    secret = private / "secret.wav"

    def filled(text):
        names = {"secret": secret, "uploads": uploads, "upload": upload, "up": "../" * 12}
        for name, value in names.items():
            text = text.replace("{" + name + "}", str(value))
        return text

    links = {"link.wav": secret, "linked": private}  # nobody can upload one; a folder of uploads may hold any
    for name, target in links.items():
        (uploads / name).symlink_to(target)
    try:
        sound = {"path": filled(place), "meta": {"_type": "gradio.FileData"}}
        sound |= {name: filled(value) if isinstance(value, str) else value for name, value in more.items()}
        answer = ask(address, "hear", sound=sound)
    finally:
        for name in links:
            (uploads / name).unlink()
    assert "event: error" in answer and "event: complete" not in answer, answer[:300]


@pytest.mark.parametrize(
    "sound", [5, "{secret}", ["{secret}"], {"path": 5}, {"path": None}, {"path": ["{secret}"]}, {}]
)
def test_a_sound_that_is_no_file_is_an_error(address, private, sound):
    text = json.dumps(sound).replace("{secret}", str(private / "secret.wav"))
    answer = ask(address, "hear", sound=json.loads(text))
    assert "event: error" in answer and "event: complete" not in answer


@pytest.mark.parametrize(
    "place", ["{secret}", "..{secret}", "%2e%2e{secret}", "/{secret}", "file:{secret}", "{secret}%00"]
)
@pytest.mark.parametrize(
    "route", ["file=", "file/", "stream/", "proxy=", "upload/", "static/", "assets/", "theme.css/"]
)
def test_no_route_hands_out_files_of_the_server(address, private, route, place):
    secret = (private / "secret.wav").read_bytes()
    for prefix in ("", "/gradio_api"):
        url = f"{address}{prefix}/{route}{place.replace('{secret}', str(private / 'secret.wav'))}"
        answer = httpx.get(url)
        assert secret not in answer.content and (answer.status_code >= 400 or "html" in answer.headers["content-type"])


def test_the_functions_behind_the_page_read_uploads_only(address, private):
    """Those that the API does not list can be called by their number all the same."""
    secret = {"path": str(private / "secret.png"), "meta": {"_type": "gradio.FileData"}}
    gallery = [{"image": secret, "caption": None}]
    functions = json.loads(urllib.request.urlopen(f"{address}/config", timeout=30).read())["dependencies"]
    with_files = 0
    for number, function in enumerate(functions):
        data = [gallery if i % 2 == 0 or len(function["inputs"]) == 1 else None for i in range(len(function["inputs"]))]
        if not data:
            continue
        session = f"s{number}"
        asked = {"data": data, "fn_index": function["id"], "session_hash": session}
        asked["event_data"] = {"index": 0, "value": gallery[0], "selected": True}
        if httpx.post(f"{address}/gradio_api/queue/join", json=asked).status_code != 200:
            continue
        with_files += 1
        answer = ""
        with httpx.stream("GET", f"{address}/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                answer += line
                if "process_completed" in line or "close_stream" in line:
                    break
        assert '"success": true' not in answer.replace('"success":true', '"success": true'), answer[:400]
    assert with_files >= 3


@pytest.mark.parametrize(
    "name", ["../../up.wav", "/tmp/up.wav", "..\\up.wav", "C:\\up.wav", "a\0b.wav", "x" * 300 + ".wav", "..", ".hidden"]
)
def test_uploads_land_in_their_folder_whatever_they_are_called(address, uploaded, sounds, name):
    data = sounds["tone.wav"].read_bytes()
    answer = httpx.post(f"{address}/gradio_api/upload", files={"files": (name, data)})
    if answer.status_code == 200:
        (path,) = map(Path, answer.json())
        assert path.resolve().parents[1] == uploaded[0].resolve() and path.read_bytes() == data
        assert "event: error" in ask(
            address, "hear", sound={"path": str(path.parent), "meta": {"_type": "gradio.FileData"}}
        )
    else:
        assert answer.status_code in (400, 413, 422, 500)
    assert not (uploaded[0].parent / "up.wav").exists() and not Path("/tmp/up.wav").exists()


def test_the_server_fetches_nothing_from_its_own_network(address, sounds):
    """An address in the place of a file would make it ask machines that only it can reach."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(sounds["tone.wav"].read_bytes())

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as inner:
        threading.Thread(target=inner.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{inner.server_address[1]}/tone.wav"
        for place in (url, url.replace("127.0.0.1", "localhost"), url.replace("127.0.0.1", "[::ffff:127.0.0.1]")):
            answer = ask(address, "hear", sound={"path": place, "url": place, "meta": {"_type": "gradio.FileData"}})
            assert "event: error" in answer, answer[:300]
            for route in ("proxy=", "file=", "stream/"):
                assert httpx.get(f"{address}/gradio_api/{route}{place}").status_code >= 300
        inner.shutdown()
    assert asked == []
