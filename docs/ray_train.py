"""Train on a Ray cluster: `python docs/ray_train.py --workers 8 --gpu mine.yaml`, where Ray's head runs.

Each worker of Ray Train is one rank; the training is `audio2img-train fit` with these settings, unchanged. A worker or
a machine that dies has the group started again, and the run goes on from its last whole checkpoint. `run.output`,
`run.captions`, the data and the YAML files must be at places that all machines see. Needs `pip install "ray[train]"`.
"""

import argparse
import os
import sys

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def train(config: dict) -> None:
    """One rank: Ray has set RANK, WORLD_SIZE and the process group already."""
    os.chdir(config["folder"])
    from training.config import load_settings
    from training.loop.fit import fit

    fit(load_settings(config["preset"], config["settings"], config["flags"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", help="YAML files of settings")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("SECTION.FIELD", "X"))
    parser.add_argument("--workers", type=int, default=2, help="ranks (default: %(default)s)")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each of them")
    parser.add_argument("--restarts", type=int, default=3, help="after failures (default: %(default)s)")
    parser.add_argument("--storage", default=os.path.abspath("ray-runs"), help="where Ray keeps its own records")
    args = parser.parse_args()
    config = {
        "folder": os.getcwd(),
        "preset": args.preset,
        "settings": [os.path.abspath(file) for file in args.settings],
        "flags": dict(args.set),
    }
    if not args.gpu:
        config["flags"].setdefault("trainer.use_cpu", "true")
    result = TorchTrainer(
        train,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if args.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=args.workers, use_gpu=args.gpu),
        run_config=RunConfig(storage_path=args.storage, failure_config=FailureConfig(max_failures=args.restarts)),
    ).fit()
    sys.exit(result.error is not None)


if __name__ == "__main__":
    main()
