"""Pictures of held-out sounds, with the losses of preset `kardsim` and with those of `default`.

    python benchmarks/mini_presets.py --data DATA --run RUN

DATA and RUN as for `mini.py`. Two audio encoders of `mini`'s size are trained, equal in data, encoder, batch, steps and
rate. As it stands they are equal in windows and augmentation too, and only the losses are those of the presets; with
`--own`, preset `kardsim` hears as the first project does: normalised over the whole clip, always from its beginning,
without augmentation, mixed clips or averaged weights. Both draw with the UNet that has seen text alone (the shipped one
has learned from the shipped encoder besides), and the recipe's classifier judges. Writes
`benchmarks/results/mini_presets.json`, with `--own` `mini_presets_own.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from audio2img_core import AudioToImagePipeline  # noqa: E402
from audio2img_core.generation.settings import Sampler  # noqa: E402
from audio2img_core.mini import names as mini  # noqa: E402
from benchmarks.mini import LEAST, hear_and_draw, held_out, macro  # noqa: E402
from benchmarks.paired import RESULTS  # noqa: E402
from training.recipes.mini import export, hearing  # noqa: E402
from training.recipes.mini.train import Recipe  # noqa: E402

PRESETS = ("kardsim", "default")
EQUAL = {  # what the presets say beside their losses
    "window__normalize": "window",
    "window__pad_value": "0.0",
    "data__random_crop": "true",
    "trainer__gradient_accumulation_steps": "1",
    "trainer__gradient_checkpointing": "false",
    "trainer__lr_scheduler_type": "cosine",
    "trainer__load_best_model_at_end": "false",
}
KARDSIM = {  # what the original project's notebook does where the recipe does otherwise
    "run__ema_decay": "0",
    "window__normalize": "clip",
    "window__dynamic_range": "null",
    "window__padding": "constant",
    "window__pad_value": "1.0",
    "data__random_crop": "false",
    **{f"data__{name}": "0" for name in ("balance", "speed", "eq_db", "gain_db", "freq_masks")},
    **{f"data__{name}_probability": "0" for name in ("room", "noise", "codec", "mix")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800, help="of each encoder (default: %(default)s)")
    parser.add_argument("--most", type=int, default=8, help="held-out clips of a concept (default: %(default)s)")
    parser.add_argument("--own", action="store_true", help="preset `kardsim` with its own windows, no augmentation")
    args = parser.parse_args()
    out = RESULTS / f"mini_presets{'_own' if args.own else ''}.json"
    recipe = Recipe(args.data, args.run)
    manifests = hearing.write_manifests(args.data, args.run / "presets" / "manifests", recipe.audible)
    clips = held_out(args.data, recipe, most=args.most)
    diffusion = export.make_pipeline(recipe.autoencoder, recipe.teacher, recipe.unet)
    figures = {"steps": args.steps, "clips": len(clips)}
    for preset in PRESETS:
        own = KARDSIM if args.own and preset == "kardsim" else {}
        folder = args.run / "presets" / f"{preset}{'-own' if own else ''}-{args.steps}"
        encoder = hearing.train_encoder(
            manifests, args.run / "diffusion", folder, steps=args.steps, preset=preset, **{**EQUAL, **own}
        )
        pipe = AudioToImagePipeline(encoder, diffusion)
        pipe.defaults = Sampler(*mini.SAMPLER)
        told = hear_and_draw(pipe, recipe, recipe.classifier, clips)
        judged = [concept for concept, ranks in told["ranks"].items() if len(ranks) >= min(LEAST, args.most)]
        figures[preset] = {
            "sound_to_concept_top1": macro({c: [float(r == 0) for r in told["ranks"][c]] for c in judged}),
            "sound_to_picture": macro({c: told["drawn"][c] for c in judged}),
        }
        print(preset, figures[preset], flush=True)
    figures["ratio"] = figures["default"]["sound_to_picture"] / max(figures["kardsim"]["sound_to_picture"], 1e-9)
    print(f"default / kardsim: {figures['ratio']:.2f}")
    out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
