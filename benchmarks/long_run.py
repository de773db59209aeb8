"""Does anything pile up? Pictures without end from the pipeline and from the page: `python benchmarks/long_run.py`.

mini draws `--count` pictures of the example sounds through the pipeline, in a process of its own; and as many through
the API of a page that is served (`audio2img app`, another process), asked by 8 callers at once, of whom every tenth
hangs up in the middle. Memory and open files of the process that draws are read all the time. What counts: all answers
that were waited for came and are right, the memory of the last quarter is that of the second within 5 %, and no file
stays open. Writes `benchmarks/results/long_run.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402
import psutil  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.paired import machine, read_result, write_result  # noqa: E402

SOUNDS = sorted((ROOT / "examples").glob("*.flac"))
CALLERS = 8
HANG_UP = 10  # every so many requests one hangs up
SEEDS = 4


class Watch(threading.Thread):
    """Reads the memory and the open files of a process and its children, once a second, until it is told to stop."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.process, self.ended = psutil.Process(pid), threading.Event()
        self.memory: list[int] = []
        self.files: list[int] = []

    def run(self) -> None:
        while not self.ended.wait(1.0):
            every = [self.process, *self.process.children(recursive=True)]
            self.memory.append(sum(each.memory_info().rss for each in every))
            self.files.append(sum(each.num_fds() for each in every))

    def result(self) -> dict[str, float]:
        """Medians of the second and of the last quarter."""
        self.ended.set()
        self.join()
        quarter = len(self.memory) // 4
        early, late = slice(quarter, 2 * quarter), slice(3 * quarter, None)
        out = {}
        for name, values in (("megabytes", [m / 1e6 for m in self.memory]), ("files", self.files)):
            out |= {f"{name}_early": statistics.median(values[early]), f"{name}_late": statistics.median(values[late])}
        return out


def draw_many(count: int) -> None:
    """Draw in this process; prints how many different pictures there were."""
    from audio2img_core import AudioToImagePipeline

    pipe = AudioToImagePipeline.from_pretrained(device="cpu")
    seen = {}
    for number in range(count):
        sound, seed = SOUNDS[number % len(SOUNDS)], number // len(SOUNDS) % SEEDS
        (image,) = pipe(sound, seed=seed).images
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        if seen.setdefault((sound.name, seed), digest) != digest:
            raise SystemExit(f"{sound.name}, seed {seed}: picture {number} differs from the first one")
    print(len(set(seen.values())))


def through_pipeline(count: int) -> dict:
    child = subprocess.Popen(
        [sys.executable, __file__, "--draw", str(count)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    watch = Watch(child.pid)
    watch.start()
    printed = child.stdout.read()
    row = {"answers": count, "pictures": int(printed.strip() or 0), **watch.result()}
    if child.wait():
        raise SystemExit("the pipeline failed")
    return row


class Page:
    """A page that is served, and what is asked of it."""

    def __init__(self, address: str):
        self.api = f"{address}/gradio_api"
        self.uploaded = {}
        self.seen: dict[tuple[str, int], str] = {}
        for sound in SOUNDS:
            with open(sound, "rb") as file:
                self.uploaded[sound.name] = httpx.post(f"{self.api}/upload", files={"files": file}).json()[0]

    def ask(self, number: int) -> str:
        """Draw one picture: "answered", "hung up", or what was wrong."""
        name, seed = SOUNDS[number % len(SOUNDS)].name, number // len(SOUNDS) % SEEDS
        sound = {"path": self.uploaded[name], "meta": {"_type": "gradio.FileData"}}
        asked = httpx.post(f"{self.api}/call/v2/draw", json={"sound": sound, "seed": seed}, timeout=600)
        if asked.status_code != 200:
            return f"status {asked.status_code}"
        where = f"{self.api}/call/v2/draw/{asked.json()['event_id']}"
        if number % HANG_UP == HANG_UP - 1:
            with httpx.stream("GET", where, timeout=600) as stream:
                next(stream.iter_raw())
            return "hung up"
        text = httpx.get(where, timeout=600).text
        if "event: complete" not in text:
            return text[-200:]
        (drawn, (settings,)) = json.loads(text.split("event: complete\ndata: ")[1])
        pixels = Image.open(io.BytesIO(httpx.get(drawn[0]["image"]["url"], timeout=600).content)).tobytes()
        digest = hashlib.sha256(pixels).hexdigest()
        if settings["seed"] != seed or self.seen.setdefault((name, seed), digest) != digest:
            return f"{name}, seed {seed}: another picture"
        return "answered"


def through_page(count: int) -> dict:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "audio2img_core.cli", "app", "--port", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            time.sleep(0.5)
            try:
                httpx.get(address)
                break
            except httpx.TransportError:
                continue
        page = Page(address)
        watch = Watch(server.pid)
        watch.start()
        with ThreadPoolExecutor(CALLERS) as callers:
            told = list(callers.map(page.ask, range(count)))
        row = {"answers": told.count("answered"), "hung_up": told.count("hung up"), **watch.result()}
        wrong = [each for each in told if each not in ("answered", "hung up")]
        return {**row, "pictures": len(set(page.seen.values())), "wrong": len(wrong), "examples": wrong[:3]}
    finally:
        server.terminate()
        server.wait()


WAYS = {"pipeline": through_pipeline, "page": through_page}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="pictures by each way (default: %(default)s)")
    parser.add_argument("--only", choices=list(WAYS), help="one of the two ways")
    parser.add_argument("--draw", type=int, help="draw so many in this process")
    args = parser.parse_args()
    if args.draw:
        draw_many(args.draw)
        return
    rows = {way: run(args.count) for way, run in WAYS.items() if args.only in (None, way)}
    if args.only:  # the other's figures are those of its last run
        rows = {**{way: row for way, row in read_result("long_run").items() if way in WAYS}, **rows}
    print("| way | answers | hung up | wrong | memory, second quarter | last | open files | at the end |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for way, row in rows.items():
        print(
            f"| {way} | {row['answers']} | {row.get('hung_up', 0)} | {row.get('wrong', 0)} "
            f"| {row['megabytes_early']:.0f} MB | {row['megabytes_late']:.0f} MB "
            f"| {row['files_early']:.0f} | {row['files_late']:.0f} |"
        )
    write_result("long_run", {"machine": machine(), "count": args.count, "callers": CALLERS, **rows})


if __name__ == "__main__":
    main()
