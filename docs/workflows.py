"""Makes example_workflows/ in a running ComfyUI that has this pack and a fresh input folder.

    pip install playwright && python docs/workflows.py http://127.0.0.1:8188

Each workflow is written down here as its nodes and links. The server says what their inputs and outputs are, the page
(in Debian's chromium, or $CHROMIUM) shows the graph and runs it where the embedded mini is all that it needs, and a
picture of it is kept beside the JSON: the templates dialog of ComfyUI shows it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parents[1] / "example_workflows"
VIEW, MARGIN = (1500, 900), (60, 90)  # pixels of the page, and of its bars at the left and the top
COLUMN, TOP, GAP = 340, 130, 70
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
SD15_ENCODER = "audio2img_sd15.safetensors"
TRAIN_NOTE = (
    f"Needs `{SD15}` in `models/checkpoints` and an audio encoder of target `sd15` as `{SD15_ENCODER}` in "
    "`models/audio_encoders`. `audio2img-train fit` trains one: see docs/training.md of audio2img."
)
PROMPTS = ("positive", "negative")


@dataclass
class Graph:
    """A workflow as the page saves it."""

    known: dict[str, Any]  # /object_info
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)

    def add(self, kind: str, at: tuple[float, float], size: tuple[float, float] | None = None, **given: Any) -> Node:
        """A node; `given` are values of its widgets, or a (node, output) that its input comes from."""
        said = self.known[kind]
        node = {
            "id": len(self.nodes) + 1,
            "type": kind,
            "pos": list(at),
            "size": list(size or (300, 100)),
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "inputs": [],
            "outputs": [
                {"name": name, "type": type_, "links": []}
                for name, type_ in zip(said["output_name"], said["output"], strict=True)
            ],
            "properties": {"Node name for S&R": kind},
            "widgets_values": [],
        }
        self.nodes.append(node)
        inputs = {**said["input"].get("required", {}), **said["input"].get("optional", {})}
        if unknown := given.keys() - inputs.keys():
            raise ValueError(f"{kind} has no input {', '.join(unknown)}")
        for name, (type_, *rest) in inputs.items():
            options = rest[0] if rest else {}
            value = given.get(name)
            widget = isinstance(type_, list) or type_ in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
            linked = isinstance(value, tuple)
            if not widget or linked:
                entry = {"name": name, "type": "COMBO" if isinstance(type_, list) else type_, "link": None}
                node["inputs"].append(entry | ({"widget": {"name": name}} if widget else {}))
            if linked:
                self._link(*value, node, len(node["inputs"]) - 1)
            if widget:
                first = type_[0] if isinstance(type_, list) and type_ else options.get("options", [None])[0]
                plain = value if value is not None and not linked else options.get("default", first)
                node["widgets_values"].append(plain)
                if options.get("control_after_generate"):
                    node["widgets_values"].append("fixed")
                if options.get("image_upload"):
                    node["widgets_values"].append("image")
        return Node(node)

    def note(self, text: str, at: tuple[float, float], size: tuple[float, float] = (300, 130)) -> None:
        """A text on the canvas."""
        base = {"id": len(self.nodes) + 1, "type": "MarkdownNote", "pos": list(at), "size": list(size), "flags": {}}
        self.nodes.append(base | {"order": len(self.nodes), "mode": 0, "properties": {}, "widgets_values": [text]})

    def as_json(self) -> dict[str, Any]:
        """The whole of it."""
        counts = {"last_node_id": len(self.nodes), "last_link_id": len(self.links)}
        rest = {"groups": [], "config": {}, "extra": {}, "version": 0.4}
        return {**counts, "nodes": self.nodes, "links": self.links, **rest}

    def _link(self, source: Node, output: str, target: dict[str, Any], slot: int) -> None:
        names = [each["name"] for each in source.node["outputs"]]
        from_ = source.node["outputs"][names.index(output)]
        key = len(self.links) + 1
        self.links.append([key, source.node["id"], names.index(output), target["id"], slot, from_["type"]])
        from_["links"].append(key)
        target["inputs"][slot]["link"] = key


@dataclass
class Node:
    """A node of a `Graph`."""

    node: dict[str, Any]

    def __getitem__(self, output: str) -> tuple[Node, str]:
        return self, output


def column(number: float, row: float = 0) -> tuple[float, float]:
    """Place on the canvas."""
    return 40 + number * COLUMN, TOP + row


def load(graph: Graph, sound: str, encoder: str = "mini") -> tuple[Node, Node]:
    """Load Audio and Load Audio Encoder in the first column."""
    loaded = graph.add("Audio2ImgLoadAudio", column(0), (300, 260), audio_file=sound)
    return loaded, graph.add("Audio2ImgLoadEncoder", column(0, 330), (300, 90), encoder_name=encoder)


def encode(graph: Graph, loaded: Node, encoder: Node) -> Node:
    """Audio Encoder in the second column."""
    given = {"encoder": encoder["encoder"], "audio": loaded["audio"]}
    return graph.add("Audio2ImgEncode", column(1), (300, 130), **given)


def hear_for_sd15(graph: Graph) -> tuple[Node, Node]:
    """A checkpoint, and positive and negative of an example for it, in the first three columns."""
    heard = encode(graph, *load(graph, "bird.flac [example]", SD15_ENCODER))
    large = graph.add("CheckpointLoaderSimple", column(1, 420), (300, 100), ckpt_name=SD15)
    given = {"embeds": heard["embeds"], "model": large["MODEL"]}
    return large, graph.add("Audio2ImgToConditioning", column(2), (300, 150), **given)


def draw(graph: Graph, at: float, model: Any, vae: Any, prompts: list[Any], latent: Any, **sampler: Any) -> None:
    """KSampler, VAE Decode and Save Image from column `at` on."""
    given = dict(zip(PROMPTS, prompts, strict=True))
    sampled = graph.add("KSampler", column(at), (300, 270), model=model, latent_image=latent, **given, **sampler)
    decoded = graph.add("VAEDecode", column(at, 340), (300, 60), samples=sampled["LATENT"], vae=vae)
    graph.add("SaveImage", column(at + 1), (380, 460), images=decoded["IMAGE"], filename_prefix="audio2img")


MINI = {"seed": 1, "steps": 12, "cfg": 5.0, "sampler_name": "dpmpp_2m", "scheduler": "sgm_uniform"}
LARGE = {"seed": 1, "steps": 25, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}


def sound_to_image(graph: Graph) -> None:
    heard = encode(graph, *load(graph, "piano.flac [example]"))
    small = graph.add("Audio2ImgLoadMini", column(1, 400), (300, 60))
    prompts = graph.add("Audio2ImgToConditioning", column(2), (300, 150), embeds=heard["embeds"], model=small["model"])
    latent = graph.add("EmptyLatentImage", column(2, 330), (300, 110), width=128, height=128)
    draw(graph, 3, small["model"], small["vae"], [prompts[name] for name in PROMPTS], latent["LATENT"], **MINI)
    graph.note(
        "**Sound to image.** Runs at once: encoder and diffusion model come with audio2img. Choose another example, or "
        "upload a sound of your own.",
        column(1, 210),
    )


def sound_to_image_sd15(graph: Graph) -> None:
    large, prompts = hear_for_sd15(graph)
    latent = graph.add("EmptyLatentImage", column(2, 330), (300, 110), width=512, height=512)
    draw(graph, 3, large["MODEL"], large["VAE"], [prompts[name] for name in PROMPTS], latent["LATENT"], **LARGE)
    graph.note(f"**Sound to image with Stable Diffusion 1.5.** {TRAIN_NOTE}", column(1, 190), (300, 180))


def sound_plus_text(graph: Graph) -> None:
    large, prompts = hear_for_sd15(graph)
    words = "in the snow, oil painting"
    text = graph.add("CLIPTextEncode", column(2, 210), (300, 110), clip=large["CLIP"], text=words)
    blended = {"conditioning_a": prompts["positive"], "conditioning_b": text["CONDITIONING"], "weight": 0.4}
    both = graph.add("Audio2ImgBlend", column(2, 390), (300, 110), **blended)
    latent = graph.add("EmptyLatentImage", column(2, 570), (300, 110), width=512, height=512)
    given = [both["conditioning"], prompts["negative"]]
    draw(graph, 3, large["MODEL"], large["VAE"], given, latent["LATENT"], **LARGE)
    said = "The text says what the sound leaves open; at weight 0 there is the sound alone."
    graph.note(f"**Sound plus text.** {said} {TRAIN_NOTE}", column(1, 190), (300, 180))


def sound_with_controlnet(graph: Graph) -> None:
    large, prompts = hear_for_sd15(graph)
    name = "control_v11p_sd15_canny.pth"
    net = graph.add("ControlNetLoader", column(2, 210), (300, 60), control_net_name=name)
    image = graph.add("LoadImage", column(2, 330), (300, 320), image="example.png")
    edges = graph.add("Canny", column(3, 250), (300, 90), image=image["IMAGE"])
    outline = {"control_net": net["CONTROL_NET"], "image": edges["IMAGE"], "strength": 0.8}
    given = {each: prompts[each] for each in PROMPTS}
    held = graph.add("ControlNetApplyAdvanced", column(3), (300, 190), **outline, **given)
    latent = graph.add("EmptyLatentImage", column(3, 410), (300, 110), width=512, height=512)
    given = [held[each] for each in PROMPTS]
    draw(graph, 4, large["MODEL"], large["VAE"], given, latent["LATENT"], **LARGE)
    said = "The picture gives the outlines, the sound what is in them."
    note = f"**Sound with ControlNet.** {said} {TRAIN_NOTE} And `{name}` in `models/controlnet`."
    graph.note(note, column(1, 190), (300, 190))


def sound_driven_frames(graph: Graph) -> None:
    loaded, name = load(graph, "bird.flac [example]")
    frames = graph.add(
        "Audio2ImgSchedule",
        column(1),
        (300, 270),
        encoder=name["encoder"],
        audio=loaded["audio"],
        fps=8.0,
        window=1.0,
    )
    small = graph.add("Audio2ImgLoadMini", column(0, 480), (300, 60))
    latent = graph.add("EmptyLatentImage", column(1, 340), (300, 110), width=128, height=128)
    noise = graph.add("RandomNoise", column(1, 510), (300, 90), noise_seed=1)
    steps = graph.add(
        "BasicScheduler", column(2, 340), (300, 110), model=small["model"], scheduler="sgm_uniform", steps=12
    )
    noisy = graph.add(
        "AddNoise",
        column(2, 510),
        (300, 90),
        model=small["model"],
        noise=noise["NOISE"],
        sigmas=steps["SIGMAS"],
        latent_image=latent["LATENT"],
    )
    same = graph.add("RepeatLatentBatch", column(3, 510), (300, 80), samples=noisy["LATENT"], amount=frames["frames"])
    guider = graph.add(
        "CFGGuider", column(2), (300, 110), model=small["model"], cfg=5.0, **{each: frames[each] for each in PROMPTS}
    )
    sampler = graph.add("KSamplerSelect", column(2, 190), (300, 60), sampler_name="dpmpp_2m")
    none = graph.add("DisableNoise", column(3, 340), (300, 40))
    sampled = graph.add(
        "SamplerCustomAdvanced",
        column(3),
        (300, 130),
        noise=none["NOISE"],
        guider=guider["GUIDER"],
        sampler=sampler["SAMPLER"],
        sigmas=steps["SIGMAS"],
        latent_image=same["LATENT"],
    )
    decoded = graph.add("VAEDecode", column(3, 210), (300, 60), samples=sampled["output"], vae=small["vae"])
    graph.add("SaveAnimatedWEBP", column(4), (380, 500), images=decoded["IMAGE"], filename_prefix="audio2img", fps=8.0)
    graph.note(
        "**Sound-driven frames.** A prompt for every frame; all frames begin with the same noise, so that they change "
        "with the sound alone. Runs at once. Up to 64 frames, which Repeat Latent Batch allows.",
        column(0, 590),
        (300, 150),
    )


def audio_similarity(graph: Graph) -> None:
    loaded, name = load(graph, "bird.flac [example]")
    heard = encode(graph, loaded, name)
    captions = "a bird\na dog\na piano\na flute\nrain\na helicopter"
    scored = graph.add("Audio2ImgSimilarity", column(2), (320, 220), embeds=heard["embeds"], captions=captions)
    graph.add("PreviewImage", column(3.1), (420, 300), images=scored["image"])
    graph.add("PreviewAny", column(3.1, 370), (420, 200), source=scored["scores"])
    seen = graph.add("Audio2ImgSpectrogram", column(1, 400), (300, 120), audio=loaded["audio"])
    graph.add("PreviewImage", column(2, 290), (320, 280), images=seen["image"])
    graph.note(
        "**What does the encoder hear?** Scores of your own captions against the sound. For another encoder than mini "
        "connect the CLIP of its diffusion model.",
        column(1, 210),
        (300, 140),
    )


WORKFLOWS: dict[Callable[[Graph], None], bool] = {
    sound_to_image: True,
    sound_to_image_sd15: False,
    sound_plus_text: False,
    sound_with_controlnet: False,
    sound_driven_frames: True,
    audio_similarity: True,
}
"""Each workflow, and whether it needs nothing but what comes with the pack."""


def ask(address: str, path: str) -> Any:
    """What the server answers."""
    with urllib.request.urlopen(f"{address}/{path}") as answer:
        return json.load(answer)


def photograph(page: Page, address: str, workflow: dict[str, Any], *, runs: bool) -> bytes:
    """PNG of a workflow on the canvas, after its run where it `runs`."""
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    page.wait_for_timeout(2500)
    if runs:
        done = len(ask(address, "history"))
        page.evaluate("app.queuePrompt(0, 1)")
        while len(ask(address, "history")) == done:
            page.wait_for_timeout(500)
    left, top = (min(node["pos"][i] for node in workflow["nodes"]) for i in (0, 1))
    right, bottom = (max(node["pos"][i] + node["size"][i] for node in workflow["nodes"]) for i in (0, 1))
    box = [left - 20, top - 60, right - left + 40, bottom - top + 80]  # titles and badges stand above
    scale = min((VIEW[0] - MARGIN[0]) / box[2], (VIEW[1] - MARGIN[1]) / box[3])
    page.evaluate(
        """([scale, box, margin]) => {
            const canvas = app.canvas.canvas.getBoundingClientRect();
            app.canvas.ds.scale = scale;
            app.canvas.ds.offset = [
                (margin[0] - canvas.left) / scale - box[0], (margin[1] - canvas.top) / scale - box[1]
            ];
            app.canvas.setDirty(true, true);
        }""",
        [scale, box, MARGIN],
    )
    page.wait_for_timeout(3000)
    clip = {"x": MARGIN[0], "y": MARGIN[1], "width": scale * box[2], "height": scale * box[3]}
    return page.screenshot(clip=clip)


def main() -> None:
    """Write example_workflows/*.json and *.jpg."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", help="address of a running ComfyUI with this pack")
    address = parser.parse_args().server.rstrip("/")
    known = ask(address, "object_info")
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as started:
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": VIEW[0], "height": VIEW[1]})
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_function("!!window.app?.graph && !!LiteGraph.registered_node_types['Audio2ImgLoadAudio']")
        page.wait_for_timeout(3000)
        page.evaluate("app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
        for make, runs in WORKFLOWS.items():
            graph = Graph(known)
            make(graph)
            made = graph.as_json()
            text = json.dumps(made, indent=1, ensure_ascii=False)
            (FOLDER / f"{make.__name__}.json").write_text(text + "\n", encoding="utf-8")
            image = Image.open(io.BytesIO(photograph(page, address, made, runs=runs))).convert("RGB")
            image.save(FOLDER / f"{make.__name__}.jpg", quality=85)
            print(make.__name__, "run" if runs else "shown")
        browser.close()


if __name__ == "__main__":
    main()
