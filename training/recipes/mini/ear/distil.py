"""Teach the student what the teacher hears: `python -m training.recipes.mini.ear.distil --store STORE --run RUN`.

Both hear the same views, the teacher in full band, the student at 16 kHz. A stopped run resumes exactly: views depend
on the seed and the step alone, all else is in the checkpoint. On a CPU a second process prepares the views; on a GPU
everything is on the card.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from .kinds import kinds
from .measure import Judge
from .slim import read_slim, write_slim
from .store import read_audio, read_index
from .student import Student, autocast, distillation_loss, encoder_config, features, masked
from .teacher import Heard, Teacher, load_teacher
from .views import Views

log = logging.getLogger(__name__)
_WARMUP = 4000  # views
_STATISTICS = 32  # batches of 16 for the teacher's mean and standard deviation
_QUEUE = 6  # batches that the second process may be ahead


@dataclass(frozen=True)
class Settings:
    """What a run is made with; all but `views`, `batch`, `seconds` and `augment` stay as they were when it resumes."""

    width: int = 256
    layers: int = 6
    batch: int = 16
    seconds: float = 4.0  # of a view
    augment: float = 1.0  # how often views are mixed and disturbed, 0 to 1
    views: int = 3_000_000  # over which the learning rate falls to a twentieth, along a cosine
    lr: float = 6e-4  # of 16 views; it grows with the square root of the batch, to twice as much at most
    weight_decay: float = 0.02
    clip: float = 2.0  # largest norm of the gradient
    ema_views: int = 16_000  # over which the weights are averaged
    seed: int = 1


class Example(NamedTuple):
    """What one step trains on."""

    inputs: Tensor  # [B, F, 160]
    heard: Heard
    kinds: Tensor  # [B, 2] of the sounds in a view, by their place in the table; -1 = unlabelled, or no second one
    level: Tensor  # [B] of the second sound to the first; 0 = there is none


class Run:
    """A student in training, with everything that its next step depends on.

    Args:
        folder: of the run; `checkpoint.pt` and `log.jsonl` are there.
        settings: of a new run, or of a resumed one, whose `views`, `batch`, `seconds` and `augment` they replace.
        teacher: of a new run.
        device: of the weights.
    """

    name = "checkpoint.pt"

    def __init__(self, folder: Path, settings: Settings, teacher: Teacher, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device = folder, device
        self.path = folder / self.name
        saved = None
        if self.path.is_file():
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            free = {name: getattr(settings, name) for name in ("views", "batch", "seconds", "augment")}
            settings = Settings(**{**saved["settings"], **free})
        self.settings = settings
        torch.manual_seed(settings.seed)
        config = encoder_config(width=settings.width, layers=settings.layers)
        self.student = Student(config, teacher).to(device)
        self.begin()
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        decayed, plain = [], []
        for parameter in self.student.parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 else plain).append(parameter)
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98))
        self.step = self.seen = self.begun = 0
        if saved is not None:
            self.student.load_state_dict(saved["student"])
            self.average.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.seen, self.begun = (saved.get(name, 0) for name in ("step", "seen", "begun"))
            torch.set_rng_state(saved["rng"])
            log.info("resumed at step %d, %d views", self.step, self.seen)

    def begin(self) -> None:
        """What a new student starts from, and what of it learns."""
        self.student.encoder.head.requires_grad_(False)  # it learns in the next step

    def begin_from(self, folder: Path) -> None:
        """Go on from what `slim.write_slim` wrote of another run: averaged weights and place in the schedule."""
        state, facts = read_slim(folder)
        for model in (self.student, self.average):
            model.load_state_dict(state)
        self.step, self.seen, self.begun = facts["step"], facts["seen"], facts["seen"]

    @property
    def new(self) -> bool:
        """Whether it has not learned anything yet."""
        return self.step == 0

    def save(self) -> None:
        """Write the checkpoint; it is there whole or not at all."""
        state = {
            "settings": asdict(self.settings),
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seen": self.seen,
            "begun": self.begun,
            "rng": torch.get_rng_state(),
        }
        partial = self.path.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def loss(self, example: Example) -> tuple[Tensor, dict[str, Tensor]]:
        """What is made small, and its parts for the log."""
        with autocast(self.device.type):
            logits, guessed = self.student(example.inputs, example.heard.frames.shape[1])
        return distillation_loss(logits.float(), guessed.float(), example.heard, self.student.mean, self.student.std)

    def learn(self, example: Example) -> dict[str, Tensor]:
        """One step; the parts of the loss."""
        larger = min(math.sqrt(self.settings.batch / 16), 2.0)  # 2e-3 does not converge
        rate = self.settings.lr * larger * schedule(self.seen, self.settings.views, self.begun)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.student.train()
        loss, parts = self.loss(example)
        loss.backward()
        parts["norm"] = nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.clip).detach()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.seen += len(example.inputs)
        keep = min(1 - self.settings.batch / self.settings.ema_views, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mine, theirs in zip(self.average.parameters(), self.student.parameters(), strict=True):
                mine.lerp_(theirs, 1 - keep)
        return {"loss": loss.detach(), **parts}


def schedule(seen: int, views: int, begun: int = 0) -> float:
    """The learning rate's share of its highest: up in a line over 4,000 views, then down a cosine to a twentieth.

    Args:
        seen: views so far. views: length of the cosine. begun: views before the optimizer was new.
    """
    progress = min(seen / views, 1.0)
    return min((seen - begun + 1) / _WARMUP, 1.0) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


class Examples:
    """Makes the examples of steps: views, the student's features, the teacher's answer."""

    def __init__(self, store: Path, teacher: Teacher, settings: Settings, device: torch.device) -> None:
        rows = [row for row in read_index(store) if row.get("split") == "train"]
        audio = read_audio(store)
        if device.type == "cuda":
            audio = audio.to(device)
        places = {kind: place for place, kind in enumerate(kinds())}
        self.kinds = torch.tensor([*(places.get(row["kind"], -1) for row in rows), -1])
        self.views = Views(audio, rows, seconds=settings.seconds, augment=settings.augment, seed=settings.seed)
        self.teacher, self.settings, self.device = teacher.to(device), settings, device

    @torch.no_grad()
    def __call__(self, step: int) -> Example:
        """The example of a step."""
        batch = self.views.batch(step, self.settings.batch)
        generator = torch.Generator().manual_seed(self.settings.seed * 999_983 + step)
        inputs = masked(features(batch.narrow), generator)
        with autocast(self.device.type):
            heard = self.teacher(batch.full)
        found = self.kinds[batch.rows].to(self.device), batch.level.to(self.device)
        return Example(inputs, Heard(*(part.float() for part in heard)), *found)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the teacher's frames, [384] each, over views that are not trained on."""
        frames = torch.cat([self(-1 - i).heard.frames.flatten(0, 1) for i in range(_STATISTICS)])
        return frames.mean(0), frames.std(0).clamp_min(1e-4)


def _produce(store: Path, teacher: Path, settings: Settings, step: int, queue: mp.Queue) -> None:
    torch.set_num_threads(1)
    examples = Examples(store, load_teacher(teacher), settings, torch.device("cpu"))
    while True:
        example = examples(step)
        queue.put((step, example.inputs, example.kinds, example.level, *example.heard))
        step += 1


def produced(store: Path, teacher: Path, settings: Settings, step: int) -> Iterator[Example]:
    """The examples from `step` on, made by a process of their own."""
    context = mp.get_context("spawn")
    queue = context.Queue(_QUEUE)
    worker = context.Process(target=_produce, args=(store, teacher, settings, step, queue), daemon=True)
    worker.start()
    try:
        while True:
            number, *tensors = queue.get(timeout=1800)
            assert number == step
            inputs, sounding, level, *heard = (tensor.clone() for tensor in tensors)
            yield Example(inputs, Heard(*heard), sounding, level)
            step += 1
    finally:
        worker.kill()
        worker.join()


def train(
    run: Run,
    examples: Iterator[Example],
    *,
    minutes: float,
    judge: Judge | None = None,
    judge_minutes: float = 20.0,
    save_minutes: float = 4.0,
    log_steps: int = 50,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train until the views or the minutes are used up, and save.

    Args:
        judge: measures the averaged weights on held-out sounds, every `judge_minutes` and at the end.
    """
    began = saved = judged = last = clock()
    total: dict[str, Tensor] = {}
    count = 0
    for example in examples:
        for name, value in run.learn(example).items():
            total[name] = total.get(name, 0.0) + value
        count += 1
        now = clock()
        over = run.seen >= run.settings.views or now - began > 60 * minutes
        if count == log_steps or over:
            speed = count * run.settings.batch / max(now - last, 1e-9)
            _note(run, {**{name: float(value) / count for name, value in total.items()}, "views_per_s": speed})
            total, count, last = {}, 0, now
        if now - saved > 60 * save_minutes or over:
            run.save()
            saved = now
        due = now - judged > 60 * judge_minutes or (over and math.isfinite(judge_minutes))
        if judge is not None and due:
            _note(run, {f"held_out_{name}": value for name, value in judge(run.average).items()})
            judged = last = clock()
        if over:
            return


def _note(run: Run, values: dict[str, float]) -> None:
    row = {"step": run.step, "views": run.seen, **{name: round(value, 4) for name, value in values.items()}}
    log.info(" ".join(f"{name} {value:g}" for name, value in row.items()))
    with (run.folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    usual = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m training.recipes.mini.ear.distil", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--store", type=Path, required=True, help="folder that training.recipes.mini.ear.build made")
    parser.add_argument("--teacher", type=Path, required=True, help="path of mn04.safetensors")
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoint and log; resumed if it exists")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time budget (default: none)")
    parser.add_argument("--views", type=int, default=usual.views, help="length of the schedule (default %(default)s)")
    parser.add_argument("--batch", type=int, default=usual.batch, help="views in a step (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=usual.seconds, help="length of a view; 2 is quicker (default %(default)s)"
    )
    parser.add_argument(
        "--lr", type=float, default=usual.lr, help="peak learning rate at batch 16 (default %(default)s)"
    )
    parser.add_argument("--width", type=int, default=usual.width, help="channels of the backbone (default %(default)s)")
    parser.add_argument("--layers", type=int, default=usual.layers, help="layers of the backbone (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the training process (default %(default)s)")
    parser.add_argument(
        "--augment",
        type=float,
        default=usual.augment,
        help="how often views are mixed and disturbed, 0 to 1; a short run learns more with 0.3 (default %(default)s)",
    )
    parser.add_argument("--begin", type=Path, help="folder that --slim wrote, for a new run to go on from")
    parser.add_argument("--slim", type=Path, help="folder for the averaged weights in float16, in files of 14 MB")
    parser.add_argument(
        "--judge-minutes", type=float, default=20.0, help="between measurements; inf = none (default %(default)s)"
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    try:
        device = torch.device(options.device)
        sizes = {
            name: getattr(options, name) for name in ("width", "layers", "batch", "seconds", "augment", "views", "lr")
        }
        teacher = load_teacher(options.teacher)
        run = Run(options.run, Settings(**sizes), teacher, device)
        if run.new and options.begin:
            run.begin_from(options.begin)
        examples = None
        if run.new or device.type == "cuda":
            examples = Examples(options.store, teacher, run.settings, device)
        if run.new and examples is not None:
            mean, std = examples.statistics()
            for model in (run.student, run.average):
                model.mean.copy_(mean)
                model.std.copy_(std)
        judge = Judge(options.store, options.run, teacher, device)
        if device.type == "cuda" and examples is not None:
            source = map(examples, range(run.step, 2**62))
        else:
            source = produced(options.store, options.teacher, run.settings, run.step)
        train(run, source, minutes=options.minutes, judge=judge, judge_minutes=options.judge_minutes)
        if options.slim:
            write_slim(run.average, options.slim, {"step": run.step, "seen": run.seen})
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
