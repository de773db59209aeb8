"""What an ear hears, on held-out sounds: recordings and renders, beside the teacher and an older mini.

    python -m training.recipes.mini.ear.build --store STORE --sounds FOLDER --cache CACHE
    python benchmarks/hearing.py --store STORE --teacher mn04.safetensors --ear ENCODER --old mini

STORE holds the packed sounds; those of the splits "test" and "unknown" are judged, which nothing was trained on. An ear
is an encoder's folder or "mini". It ranks the plain names of all kinds of `kinds.yaml` (an older mini its own
captions, and what it does not name it gets wrong). The teacher's classes, less their usual logits, are matched with
kinds by the same table; it is not asked about kinds that none of its classes means. Every figure but the calibration
is the mean over kinds.
Prints a table and, with `--output`, writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from audio2img_core import AudioEncoder, load_audio  # noqa: E402
from audio2img_core.conditioning.zero_shot import caption_scores  # noqa: E402
from training.recipes.mini.ear import figures  # noqa: E402
from training.recipes.mini.ear.align import DIFFUSION, Captions  # noqa: E402
from training.recipes.mini.ear.kinds import canonical, kinds, usual_logits, votes  # noqa: E402
from training.recipes.mini.ear.measure import accuracy, sampled  # noqa: E402
from training.recipes.mini.ear.store import read_audio, read_index  # noqa: E402
from training.recipes.mini.ear.teacher import RATE, Teacher, load_teacher  # noqa: E402

SECONDS = 10.0  # of a clip
PAIRS = 200
USUAL = 300  # clips over which the teacher's classes have their usual probability
PAIR_SAMPLES = 4 * RATE
UNSURE = 0.5  # belief in the first answer below which mini says that it is not sure


@dataclass
class Clips:
    """Sounds [T] at 32 kHz and their kinds."""

    sounds: list[Tensor]
    kinds: list[str]


class Ear:
    """An encoder and the captions that it ranks.

    Args:
        path: of its folder, or "mini". diffusion: the pipeline whose text model taught it.
        own: rank the embedded `captions.json` in place of all kinds.
    """

    def __init__(self, path: str, diffusion: Path, *, own: bool) -> None:
        self.encoder = AudioEncoder.from_pretrained(DIFFUSION.parent / "encoder" if path == "mini" else path)
        self.encoder = self.encoder.float().eval()
        captions = Captions(diffusion, torch.device("cpu"))
        self.names = list(kinds())
        if own:
            texts = json.loads((DIFFUSION.parent / "captions.json").read_text(encoding="utf-8"))
            self.columns = [
                self.names.index(canonical()[text.removeprefix("a ").removeprefix("an ")]) for text in texts
            ]
            self.tokens = captions(texts)
        else:
            self.columns, self.tokens = list(range(len(self.names))), captions.plain()

    def belief(self, sounds: list[Tensor]) -> Tensor:
        """Share of belief of every kind, [N, K]."""
        rows = torch.zeros(len(sounds), len(self.names))
        for row, sound in zip(rows, sounds, strict=True):
            row[self.columns] = caption_scores(self.encoder.encode(sound, RATE), self.tokens)[0]
        return rows


def tagged(teacher: Teacher, sounds: list[Tensor]) -> Tensor:
    """The teacher's logits, [N, 527]."""
    filled = [torch.nn.functional.pad(sound, (0, max(0, RATE - len(sound)))) for sound in sounds]
    with torch.no_grad():
        return torch.cat([teacher(sound[None]).logits for sound in filled])


def clips_of(audio: Tensor, rows: list[dict]) -> Clips:
    """The first 10 s of rows of a store."""
    most = round(SECONDS * RATE)
    sounds = [audio[row["start"] : row["start"] + min(row["samples"], most)].float() / 32768 for row in rows]
    return Clips(sounds, [row["kind"] for row in rows])


def shipped(folder: Path) -> Clips:
    """The recordings of `tests/mini`."""
    rows = [json.loads(line) for line in (folder / "sounds.jsonl").read_text(encoding="utf-8").splitlines()]
    sounds = [load_audio(folder / row["audio"], sample_rate=RATE)[0].mean(0) for row in rows]
    return Clips(sounds, [canonical()[row["concept"]] for row in rows])


def right_share(scores: Tensor, truth: list[str], names: list[str]) -> float:
    """Top-1 accuracy over all clips."""
    return sum(names[i] == kind for i, kind in zip(scores.argmax(1).tolist(), truth, strict=True)) / len(truth)


def figures_of(ear: Ear, data: dict[str, Clips], pairs: list[tuple[int, int]]) -> dict[str, float | list[str]]:
    """All figures of one ear."""
    names, found = ear.names, {}
    beliefs = {name: ear.belief(clips.sounds) for name, clips in data.items() if clips.sounds}
    for name in ("recordings", "renders"):
        if name in beliefs:
            found[f"{name}_top1"], found[f"{name}_top5"] = accuracy(beliefs[name], data[name].kinds, names)
    if "shipped" in beliefs:
        found["tests_mini_top1"] = right_share(beliefs["shipped"], data["shipped"].kinds, names)
    recordings = data["recordings"]
    first = beliefs["recordings"].max(1)
    right = torch.tensor([names[i] == kind for i, kind in zip(first.indices.tolist(), recordings.kinds, strict=True)])
    found["calibration_error"] = figures.calibration_error(first.values, right)
    found["sure_and_wrong"] = figures.sure_and_wrong(first.values, right)
    both = [figures.mixed(recordings.sounds[a], recordings.sounds[b], PAIR_SAMPLES) for a, b in pairs]
    columns = [(names.index(recordings.kinds[a]), names.index(recordings.kinds[b])) for a, b in pairs]
    found["pairs"] = figures.both_heard(ear.belief(both), columns) if both else 0.0
    if "unknown" in beliefs:
        found["unknown_unsure"] = float((beliefs["unknown"].max(1).values < UNSURE).float().mean())
    noise = torch.randn(4 * RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    found["noise_belief"], found["silence_belief"] = ear.belief([noise, torch.zeros(4 * RATE)]).max(1).values.tolist()
    worst = list(figures.by_kind(beliefs["recordings"], recordings.kinds, names).items())[:10]
    found["worst"] = [
        f"{kind} {share:.0%} ({figures.taken_for(beliefs['recordings'], recordings.kinds, names, kind)})"
        for kind, share in worst
    ]
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="folder that training.recipes.mini.ear.build made")
    parser.add_argument("--ear", help="folder of the encoder to judge")
    parser.add_argument("--old", help='encoder to compare with, which ranks its own captions: a folder or "mini"')
    parser.add_argument("--teacher", type=Path, help="path of mn04.safetensors, to show what it hears")
    parser.add_argument("--diffusion", type=Path, default=DIFFUSION, help="pipeline of the text model (default: mini)")
    parser.add_argument("--each", type=int, default=10, help="most clips of a kind (default %(default)s)")
    parser.add_argument("--output", type=Path, help="gets the figures as JSON")
    options = parser.parse_args()
    rows = [row for row in read_index(options.store) if row.get("split") in ("test", "unknown")]
    known = [row for row in rows if row["kind"] in kinds()]
    renders = [{**row, "rendered": False} for row in known if row.get("rendered")]
    audio = read_audio(options.store)
    data = {
        "recordings": clips_of(audio, sampled(known, "test", options.each)),
        "renders": clips_of(audio, sampled(renders, "test", options.each)),
        "unknown": clips_of(audio, [row for row in rows if row["split"] == "unknown"]),
        "shipped": shipped(ROOT / "tests" / "mini"),
    }
    pairs = figures.drawn_pairs(data["recordings"].kinds, PAIRS)
    results: dict[str, dict] = {}
    if options.ear:
        results["ear"] = figures_of(Ear(options.ear, options.diffusion, own=False), data, pairs)
    if options.old:
        results["old"] = figures_of(Ear(options.old, DIFFUSION, own=True), data, pairs)
    if options.teacher:
        teacher, found = load_teacher(options.teacher), {}
        names = [name for name, kind in kinds().items() if kind.audioset]
        trained = [row for row in read_index(options.store) if row.get("split") == "train"]
        some = trained[:: max(len(trained) // USUAL, 1)]
        usual = usual_logits(tagged(teacher, clips_of(audio, some).sounds))
        for name in ("recordings", "renders"):
            clips = data[name]
            if clips.sounds:
                scores = votes(tagged(teacher, clips.sounds), names, offset=usual)
                found[f"{name}_top1"], found[f"{name}_top5"] = accuracy(scores, clips.kinds, names)
        scores = votes(tagged(teacher, data["shipped"].sounds), names, offset=usual)
        found["tests_mini_top1"] = right_share(scores, data["shipped"].kinds, names)
        results["teacher"] = found
    print(", ".join(f"{len(clips.sounds)} {name} of {len(set(clips.kinds))} kinds" for name, clips in data.items()))
    print(f"{'':20}" + "".join(f"{who:>10}" for who in results))
    for name in dict.fromkeys(name for found in results.values() for name in found if name != "worst"):
        cells = (f"{found[name]:10.3f}" if name in found else f"{'':10}" for found in results.values())
        print(f"{name:20}" + "".join(cells))
    for who, found in results.items():
        if "worst" in found:
            print(f"worst of {who}: {', '.join(found['worst'])}")
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
