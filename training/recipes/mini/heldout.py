"""What the tests of `mini` need: `python -m training.recipes.mini.heldout --data DATA --run RUN --output tests/mini`.

A few held-out sounds of every concept that mini hears, made small, and the classifier that judges the pictures.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from audio2img_core.audio.excerpt import Excerpt
from audio2img_core.audio.io import SAMPLE_RATE
from audio2img_core.audio.waveform import read_clips

from .sounds import read_jsonl, write_jsonl
from .train import Recipe

LICENCES = (
    *("CC0-1.0", "Zlib", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-SA-3.0"),
    *("LGPL-2.1", "GPL-2.0-or-later", "GPL-3.0-or-later"),
)
"""Of what may lie in a repository, those with the fewest conditions first."""
_SECONDS = 4.0
_BIT_RATE = 40_000


def write_subset(data: Path, folder: Path, concepts: Collection[str], *, each: int = 2) -> list[dict]:
    """Copy the first seconds of `each` held-out recordings of every one of `concepts` that has as many; their rows.

    Of a concept's recordings those of different sources and with the fewest conditions come first. What is rendered
    or synthesised is left out. The rows, with package, file and licence, are `folder/sounds.jsonl`.
    """
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in read_jsonl(data / "test.jsonl"):
        if row["concept"] in concepts and row["licence"] in LICENCES and not row["synthesised"] and row["offset"] == 0:
            groups[row["concept"]].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for concept, rows in groups.items():
        seen: dict[str, int] = defaultdict(int)
        ranked = []
        for row in sorted(rows, key=lambda row: (LICENCES.index(row["licence"]), row["audio"])):
            ranked.append((seen[row["source"]], len(ranked), row))
            seen[row["source"]] += 1
        if len(ranked) < each:
            continue
        for number, (*_, row) in enumerate(sorted(ranked, key=lambda entry: entry[:2])[:each]):
            name = f"{concept}-{number}.opus"
            _write_opus(folder / name, read_clips(data / row["audio"], Excerpt(duration=_SECONDS))[0])
            kept = {key: row[key] for key in ("concept", "package", "version", "file", "licence")}
            written.append({"audio": name, **kept})
    write_jsonl(folder / "sounds.jsonl", written)
    return written


def _write_opus(path: Path, waveform: Tensor) -> None:
    samples = (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()[None]
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = _BIT_RATE
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.mini.heldout", description=(__doc__ or "").splitlines()[2]
    )
    parser.add_argument("--data", type=Path, required=True, help="what training.recipes.mini.data has built")
    parser.add_argument("--run", type=Path, required=True, help="the folder of training.recipes.mini.train")
    parser.add_argument("--output", type=Path, required=True, help="gets sounds.jsonl, *.opus, classifier.safetensors")
    options = parser.parse_args(argv)
    recipe = Recipe(options.data, options.run)
    rows = write_subset(options.data, options.output, recipe.audible)
    halves = {name: tensor.half().contiguous() for name, tensor in recipe.classifier.state_dict().items()}
    save_file(halves, options.output / "classifier.safetensors", {"concepts": json.dumps(recipe.concepts)})
    print(f"{options.output}: {len(rows)} sounds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
