"""The figures of `mini`, each judged on sounds of sources that were never trained on for what they show.

    python benchmarks/mini.py --data DATA --run RUN

DATA is what `training.recipes.mini.data` has built, RUN the folder of `training.recipes.mini.train`, of which only the
classifier is taken: it judges the pictures, and is judged itself on a style that it never saw. Everything else is the
shipped `mini`. Prints a table and writes `benchmarks/results/mini.json`; `--sheet` draws what became of a held-out
sound of every concept that mini hears.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from audio2img_core import AudioToImagePipeline  # noqa: E402
from audio2img_core.generation.settings import Sampler  # noqa: E402
from audio2img_core.mini import names as mini  # noqa: E402
from training.recipes.mini.classifier import name_pictures  # noqa: E402
from training.recipes.mini.sounds import read_jsonl  # noqa: E402
from training.recipes.mini.train import Recipe  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "mini.json"
PICTURES = 4  # of each text
LEAST = 8  # held-out clips of a concept: the figures of those with fewer are shown, and are in no mean


def macro(hits: dict[str, list[float]]) -> float:
    """Mean over concepts of the mean over their clips."""
    return float(np.mean([np.mean(values) for values in hits.values()]))


def judge_classifier(recipe: Recipe, classifier) -> float:
    pictures = recipe.pictures.where(roles=["unseen"], concepts=recipe.concepts)
    with torch.no_grad():
        said = classifier(pictures.pixels).argmax(1).tolist()
    return float(np.mean([recipe.concepts[s] == c for s, c in zip(said, pictures.concepts, strict=True)]))


def draw_texts(pipe: AudioToImagePipeline, recipe: Recipe, classifier) -> dict[str, list[float]]:
    """Whether the pictures of each concept's plain name show it; drawn by the diffusers pipeline itself."""
    hits: dict[str, list[float]] = {}
    sampler = Sampler(*mini.SAMPLER)
    for number, concept in enumerate(recipe.concepts):
        images = pipe.diffusion(
            [recipe.names[concept]] * PICTURES,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            generator=[torch.Generator().manual_seed(100 * number + k) for k in range(PICTURES)],
        ).images
        hits[concept] = [float(said == number) for said in name_pictures(classifier, images)]
    return hits


def hear_and_draw(pipe, recipe: Recipe, classifier, clips: list[tuple[str, Path]], *, draw: bool = True) -> dict:
    """Per concept and clip: rank and share of the right caption, and whether the picture shows the concept."""
    captions = list(recipe.audible.values())
    ranks, shares, drawn = defaultdict(list), defaultdict(list), defaultdict(list)
    for first in range(0, len(clips), 16):
        part = clips[first : first + 16]
        heard = pipe.encode([str(path) for _, path in part])
        named = pipe.hear(heard, captions, top=len(captions))
        for (concept, _), order in zip(part, named, strict=True):
            ranks[concept].append([h.caption for h in order].index(recipe.names[concept]))
            shares[concept].append(dict(order)[recipe.names[concept]])
        if draw:
            images = [pipe(path, seed=first + k).images[0] for k, (_, path) in enumerate(part)]
            for (concept, _), said in zip(part, name_pictures(classifier, images), strict=True):
                drawn[concept].append(float(recipe.concepts[said] == concept))
    return {"ranks": ranks, "shares": shares, "drawn": drawn}


def held_out(data: Path, recipe: Recipe, *, most: int = 0) -> list[tuple[str, Path]]:
    """(concept, file) of the test split; `most` of each concept, evenly spread, 0 = all."""
    rows = read_jsonl(data / "test.jsonl")
    by_concept = defaultdict(list)
    for row in rows:
        if row["concept"] in recipe.audible:
            by_concept[row["concept"]].append(data / row["audio"])
    clips = []
    for concept, paths in by_concept.items():
        paths = sorted(paths)
        chosen = paths if not most else [paths[int(i)] for i in np.linspace(0, len(paths) - 1, min(most, len(paths)))]
        clips += [(concept, path) for path in chosen]
    return clips


def timings(pipe: AudioToImagePipeline, python: str) -> dict[str, float]:
    """Seconds of a warm picture (median of five) and of a cold `audio2img generate` (of three)."""
    sound = ROOT / "examples" / "piano.flac"
    warm = []
    for seed in range(6):
        start = time.perf_counter()
        pipe(sound, seed=seed)
        warm.append(time.perf_counter() - start)
    cold = []
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", "audio2img_core.cli", "generate", str(sound), "-o", f"{folder}/piano.png"]
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
            cold.append(time.perf_counter() - start)
    return {"warm_seconds": float(np.median(warm[1:])), "cold_seconds": float(np.median(cold))}


def draw_sheet(pipe, recipe: Recipe, clips: list[tuple[str, Path]], shares: dict[str, list[float]], path: Path) -> None:
    """A held-out sound of every concept and what it became, with the concept's name and what was heard.

    It is the one in the middle when a concept's clips are ordered by the right caption's share, of `hear_and_draw`.
    """
    from PIL import Image, ImageDraw

    names = list(recipe.audible.values())
    files = defaultdict(list)
    for concept, file in clips:
        files[concept].append(file)
    by_share = {concept: sorted(zip(shares[concept], found, strict=True)) for concept, found in files.items()}
    middles = {concept: ordered[len(ordered) // 2][1] for concept, ordered in by_share.items()}
    columns, cell, text = 8, 128, 30
    rows = -(-len(middles) // columns)
    sheet = Image.new("RGB", (columns * (cell + 8), rows * (cell + text + 8)), "white")
    writer = ImageDraw.Draw(sheet)
    for number, (concept, file) in enumerate(middles.items()):
        heard = pipe.encode(str(file))
        (image,) = pipe(heard, seed=1).images
        best = pipe.hear(heard, names, top=1)[0][0]
        x, y = number % columns * (cell + 8) + 4, number // columns * (cell + text + 8) + 4
        sheet.paste(image.resize((cell, cell)), (x, y))
        right = best.caption == recipe.names[concept]
        writer.text((x + 2, y + cell + 2), concept, fill="black")
        writer.text((x + 2, y + cell + 14), f"heard: {best.caption}", fill="black" if right else "red")
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--most", type=int, default=0, help="held-out clips of a concept (default: all)")
    parser.add_argument("--sheet", type=Path, help="PNG of a typical held-out sound of every concept")
    parser.add_argument("--python", default=sys.executable, help="that starts cold: of a plain installation, say")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    recipe = Recipe(args.data, args.run)
    if list(mini.captions()) != list(recipe.audible.values()):
        sys.exit("the embedded mini is not what this recipe exports: run training.recipes.mini.train --export first")
    classifier = recipe.classifier
    pipe = AudioToImagePipeline.from_pretrained(device="cpu")
    clips = held_out(args.data, recipe, most=args.most)
    texts = draw_texts(pipe, recipe, classifier)
    told = hear_and_draw(pipe, recipe, classifier, clips)
    judged = [c for c in recipe.audible if len(told["ranks"].get(c, ())) >= min(LEAST, args.most or LEAST)]
    ranks, drawn = ({c: told[name][c] for c in judged} for name in ("ranks", "drawn"))
    right = [d for c in ranks for r, d in zip(ranks[c], drawn[c], strict=True) if r == 0]
    files = [file for file in mini.FOLDER.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    figures = {
        "drawn_concepts": len(recipe.concepts),
        "heard_concepts": len(recipe.audible),
        "judged_concepts": len(judged),
        "judged_clips": sum(map(len, ranks.values())),
        "classifier_unseen_style": judge_classifier(recipe, classifier),
        "text_to_picture": macro(texts),
        "sound_to_concept_top1": macro({c: [float(r == 0) for r in v] for c, v in ranks.items()}),
        "sound_to_concept_top5": macro({c: [float(r < 5) for r in v] for c, v in ranks.items()}),
        "sound_to_picture": macro(drawn),
        "sound_to_picture_where_heard": float(np.mean(right)) if right else 0.0,
        "megabytes": sum(file.stat().st_size for file in files) / 1e6,
        **timings(pipe, args.python),
    }
    print(f"{'concept':14} clips  heard  top 5  drawn   text")
    for concept in recipe.concepts:
        r, d = told["ranks"].get(concept, []), told["drawn"].get(concept, [])
        sound = (np.mean([x == 0 for x in r]), np.mean([x < 5 for x in r]), np.mean(d)) if r else ()
        few = "  (too few to judge)" if r and concept not in judged else ""
        shown = "  ".join(f"{value:5.0%}" for value in sound) or f"{'-':>5}  {'-':>5}  {'-':>5}"
        print(f"{concept:14} {len(r):5}  {shown}  {np.mean(texts[concept]):5.0%}{few}")
    for name, value in figures.items():
        print(f"{name:30} {value:.3f}" if isinstance(value, float) else f"{name:30} {value}")
    args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if args.sheet:
        draw_sheet(pipe, recipe, clips, told["shares"], args.sheet)


if __name__ == "__main__":
    main()
