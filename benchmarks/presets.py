"""The presets `kardsim` and `default` of `training`, side by side on a soundfont that neither has heard.

    python benchmarks/presets.py

renders a small labelled set of sounds (`midi_sounds.py`), makes a teacher of its captions (`small_teacher.py`: no
published CLIP, so the figures compare recipes and say nothing of CLIP), trains both presets from three random seeds
with `training.loop.fit`, and judges them on TimGM6mb, where training had FluidR3 and MuseScore's soundfont. About 40
minutes on two quiet cores.

Equal for both: the encoder, a small Wav2Vec2-BERT with the same random weights and the convolutional head, the data,
the number of steps, the clips of a step, the peak learning rate and its warm-up (a preset's own are for a pretrained
backbone and thousands of steps). What differs is the rest of the presets: the losses above all, gain and crops, the
schedule of rates, weight decay, and how the window is normalised and filled. "default, queries" is `default` with the
head of its own, 256 wide (not 512) and so about as large. Of a preset's own settings these are changed:

- the target is `mini` for both (not `sd21`): the teacher is a small one;
- clips of a step: 8 x 4 with micro-batches of 8 for `kardsim` (not 8 x 16), 32 x 1 for `default` (not 64);
- the window of `default` is the 3.75 s of `kardsim` (not 10 s): the clips are hardly longer;
- the last weights are judged, not the best of several evaluations on the way;
- no gradient checkpointing, which changes no figure.

All else is as the YAML files have it. Tokens are compared at the positions that the head gives: 47 of the
convolutional one and 76 queries; "cosine, first 47" is at the same ones for all. "floor" is the mean target of each
position, whatever is heard. Finished trainings are kept in the folder of `--work` and unfinished ones gone on with. The
figures go to `benchmarks/results/presets.json`. `--held-out fluid` is the way round to tune by: training hears TimGM6mb
only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.midi_sounds import FONTS, SOUNDS, make_splits, missing_packages  # noqa: E402
from benchmarks.small_teacher import save_teacher  # noqa: E402

SECONDS = 3.75  # the window
HEARD = SECONDS + 0.025  # seconds of a clip that fill the window's frames
COMMON = 47  # positions that both heads have
CASES = {  # name: preset, clips of a micro-batch, micro-batches of a step, flags
    "kardsim": ("kardsim", 8, 4, {}),
    "default": ("default", 32, 1, {"head.kind": "conv"}),
    "default, queries": ("default", 32, 1, {"head.width": 256}),
}
BACKBONE = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
INITIAL = 0.05  # standard deviation of random weights; the published 0.02 is for a width of 1024
SHOWN = {  # figure of the table: its heading
    "a2t_r1": "R@1",
    "a2t_r5": "R@5",
    "cosine": "cosine",
    "common_cosine": f"cosine, first {COMMON}",
    "norm_ratio": "norm ratio",
}


def settings(case: str, seed: int, args: argparse.Namespace, splits: dict[str, Path]) -> dict[str, str]:
    """The flags that `training.config.load_settings` lays over the preset; the output folder is left out."""
    _, micro, accumulated, more = CASES[case]
    flags = {
        "run.data": splits["train"],
        "run.eval_data": splits["dev"],
        "run.target": "mini",
        "run.teacher": args.work / "teacher",
        "run.backbone": args.work / f"backbone-{seed}",
        "run.captions": args.work / "captions",
        "window.seconds": SECONDS,
        "trainer.max_steps": args.steps,
        "trainer.per_device_train_batch_size": micro,
        "trainer.gradient_accumulation_steps": accumulated,
        "trainer.gradient_checkpointing": "false",
        "trainer.learning_rate": args.rate,
        "trainer.warmup_steps": args.steps // 10,
        "trainer.eval_strategy": '"no"',
        "trainer.load_best_model_at_end": "false",
        "trainer.save_steps": 100,
        "trainer.logging_steps": max(1, args.steps // 20),
        "trainer.use_cpu": "true",
        "trainer.seed": seed,
    }
    return {name: str(value) for name, value in (flags | more).items()}


def train_and_judge(case: str, seed: int, args: argparse.Namespace, splits: dict[str, Path]) -> dict:
    """The figures of one training on `dev` and `test`; of an earlier call where the settings are the same."""
    import torch

    from training.config import load_settings
    from training.loop.fit import fit

    torch.set_num_threads(1)
    preset, flags = CASES[case][0], settings(case, seed, args, splits)
    config = load_settings(preset, [], flags)
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:8]
    output = args.work / "runs" / f"{preset}-{seed}-{digest}"
    kept = output / "figures.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with open(output / "log.txt", "a", encoding="utf-8", buffering=1) as log, contextlib.redirect_stdout(log):
        trainer = fit(load_settings(preset, [], {**flags, "run.output": str(output)}))
    run = {"case": case, "seed": seed, "seconds": time.perf_counter() - start}
    shutil.rmtree(output / "checkpoints")
    run |= {split: judge(output / "encoder", splits[split], trainer.task.captions) for split in ("dev", "test")}
    kept.write_text(json.dumps(run), encoding="utf-8")
    return run


def judge(checkpoint: Path, manifest: Path, captions) -> dict:
    """All figures of a checkpoint on a manifest, `captions` being the cache of the teacher's tokens."""
    from audio2img_core import AudioEncoder
    from audio2img_core.audio.excerpt import Excerpt
    from audio2img_core.audio.waveform import read_clips
    from training.data.sources import open_source
    from training.evaluation.metrics import evaluate_tokens
    from training.evaluation.similarity import position_profile

    clips = list(open_source(manifest))
    encoder = AudioEncoder.from_pretrained(checkpoint)
    heard = encoder.encode([read_clips(clip.audio, Excerpt(duration=HEARD))[0] for clip in clips], 16000, batch_size=32)
    assert heard.clips == tuple(range(len(clips)))  # one window each
    positions = encoder.config.positions
    rows = range(len(captions))
    text, words = captions.tokens(rows)[:, positions], captions.mask(rows)[:, positions]
    right = [[captions.row(caption) for caption in clip.captions] for clip in clips]
    mean = captions.mean_tokens()[positions]
    figures = evaluate_tokens(heard.tokens, text, right, content=words, mean_tokens=mean)
    common = [x[:, :COMMON] for x in (heard.tokens, text)]
    figures["common_cosine"] = position_profile(*common, right)["cosine"].mean().item()
    constant = mean[None, :COMMON].expand_as(common[0])
    figures["mean_common_cosine"] = position_profile(constant, common[1], right)["cosine"].mean().item()
    return figures


def save_backbone(folder: Path, seed: int) -> None:
    """A Wav2Vec2-BERT with random weights, small and of the settings that the published one has."""
    import torch
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    torch.manual_seed(seed)
    config = Wav2Vec2BertConfig(**BACKBONE, initializer_range=INITIAL, layerdrop=0.0, apply_spec_augment=False)
    Wav2Vec2BertModel(config).save_pretrained(folder)


def prepare(args: argparse.Namespace) -> dict[str, Path]:
    """Sounds, teacher and backbones, as far as they are not there; returns the manifests by split."""
    splits = make_splits(args.work, args.held_out)
    if not (args.work / "teacher" / "model_index.json").is_file():
        share = save_teacher(args.work / "teacher", [sound.captions for sound in SOUNDS])
        print(f"teacher: {share:.1%} of the captions find what they name", flush=True)
    for seed in args.seeds:
        if not (args.work / f"backbone-{seed}" / "model.safetensors").is_file():
            save_backbone(args.work / f"backbone-{seed}", seed)
    return splits


def summary(runs: list[dict], split: str) -> dict[str, dict]:
    """case -> figure -> mean and standard deviation over the seeds, and the mean of the floor."""
    result: dict[str, dict] = {}
    for case in CASES:
        figures = [run[split] for run in runs if run["case"] == case]
        for name in SHOWN:
            values = [each[name] for each in figures]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            floor = statistics.fmean(each[f"mean_{name}"] for each in figures)
            result.setdefault(case, {})[name] = {"mean": statistics.fmean(values), "sd": spread, "floor": floor}
        result[case]["beats_floor"] = [bool(each["beats_floor"]) for each in figures]
    return result


def show(table: dict[str, dict]) -> None:
    print(f"| case | {' | '.join(SHOWN.values())} | beats the floor |")
    print("| --- |" + " --- |" * (len(SHOWN) + 1))
    for case, row in table.items():
        cells = [f"{row[name]['mean']:.3f} ± {row[name]['sd']:.3f}" for name in SHOWN]
        print(f"| {case} | {' | '.join(cells)} | {sum(row['beats_floor'])} of {len(row['beats_floor'])} |")
        print(f"| floor of {case} | {' | '.join(format(row[name]['floor'], '.3f') for name in SHOWN)} | |")
    ratios = [f"{table['default'][name]['mean'] / max(table['kardsim'][name]['mean'], 1e-9):.2f}" for name in SHOWN]
    print(f"| default / kardsim | {' | '.join(ratios)} | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "audio2img-presets"
    parser.add_argument("--work", type=Path, default=cache, help="sounds and trainings (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of each training (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of both (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--held-out", choices=sorted(FONTS), default="timgm", help="soundfont (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, a thread each (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one seed and few steps: whether it runs, not for figures")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "presets.json")
    args = parser.parse_args()
    if packages := missing_packages():
        sys.exit(f"please install: sudo apt-get install {' '.join(packages)}")
    if args.quick:
        args.steps, args.seeds = 10, args.seeds[:1]

    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))
    splits = prepare(args)
    runs = []
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        cases = [(case, seed) for case in CASES for seed in args.seeds]
        for run in pool.map(train_and_judge, *zip(*cases, strict=True), [args] * len(cases), [splits] * len(cases)):
            runs.append(run)
            figures = ", ".join(f"{label} {run['test'][name]:.3f}" for name, label in SHOWN.items())
            print(f"{run['case']}, seed {run['seed']}, {run['seconds']:.0f} s: {figures}", flush=True)
    tables = {split: summary(runs, split) for split in ("test", "dev")}
    print(f"\n{len(SOUNDS)} sounds, {args.steps} steps of 32 clips, held out: {args.held_out}\n")
    show(tables["test"])
    print("\nOther phrases of the soundfonts of the training:\n")
    show(tables["dev"])
    if args.quick:
        return
    machine = {"torch": torch.__version__, "jobs": args.jobs, "machine": platform.machine()}
    result = {"machine": machine, "steps": args.steps, "rate": args.rate, "held_out": args.held_out}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({**result, "tables": tables, "runs": runs}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
