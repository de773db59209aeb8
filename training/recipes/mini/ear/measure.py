"""What an ear hears on held-out sounds: by the teacher's classes, and by a linear layer on its embedding."""

from __future__ import annotations

import zlib
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from .kinds import kinds, usual_logits, votes
from .store import read_audio, read_index
from .student import STUDENT_WINDOW, Student, autocast, features
from .teacher import RATE, Teacher

SECONDS = 10.0  # of a clip
_PER_KIND = {"train": 10, "test": 8}  # clips at most


class Judge:
    """Measures students, and once the teacher, on the labelled clips of a store.

    Args:
        store: folder of the packed sounds. run: keeps the clips' features, which do not change.
        teacher: heard once. device: where the students are.
    """

    def __init__(self, store: Path, run: Path, teacher: Teacher, device: torch.device) -> None:
        self.device, self.teacher = device, teacher
        self.store, self.run = store, run
        self._clips: dict | None = None

    @property
    def clips(self) -> dict:
        """What is measured on, prepared at the first use and kept in the run's folder."""
        clips = self._clips
        if clips is None:
            rows = [row for row in read_index(self.store) if row["kind"] in kinds()]
            picked = {split: sampled(rows, split, most) for split, most in _PER_KIND.items()}
            key = zlib.crc32(repr([[row["id"] for row in each] for each in picked.values()]).encode())
            path = self.run / f"judge-{key:08x}.pt"
            if path.is_file():
                clips = torch.load(path, weights_only=True)
            else:
                audio = read_audio(self.store)
                clips = {split: prepare(audio, each, self.teacher) for split, each in picked.items()}
                torch.save(clips, path)
            self._clips = clips
        return clips

    @torch.no_grad()
    def __call__(self, student: Student) -> dict[str, float]:
        """Macro top-1 and top-5 by name and by a linear layer: the student's and, for comparison, the teacher's."""
        student.eval()
        names = sorted(set(self.clips["test"]["kinds"]))
        nameable = [name for name in names if kinds()[name].audioset]
        test, train = self.clips["test"], self.clips["train"]
        heard = {split: self._hear(student, clips) for split, clips in self.clips.items()}
        figures = {}
        teachers = [(clips["logits"].float(), clips["embedding"].float()) for clips in (test, train)]
        for who, ((logits, embedding), (usual, trained)) in {
            "": (heard["test"], heard["train"]),
            "teacher_": teachers,
        }.items():
            scores = votes(logits, nameable, offset=usual_logits(usual))
            top1, top5 = accuracy(scores, test["kinds"], nameable)
            figures |= {f"{who}names_top1": top1, f"{who}names_top5": top5}
            top1, top5 = accuracy(linear_probe(trained, train["kinds"], embedding, names), test["kinds"], names)
            figures |= {f"{who}probe_top1": top1, f"{who}probe_top5": top5}
        return figures

    def valid(self) -> dict:
        """The validation clips, on which the temperature is fitted."""
        rows = [row for row in read_index(self.store) if row["kind"] in kinds()]
        return prepare(read_audio(self.store), sampled(rows, "valid", 20), self.teacher)

    def _hear(self, student: Student, clips: dict) -> tuple[Tensor, Tensor]:
        """Logits and embeddings of clips, the mean over their windows."""
        outputs = []
        with autocast(self.device.type):
            for inputs in clips["windows"].split(64):
                logits, embedding = student.hear(inputs.to(self.device, torch.float32))
                outputs.append(torch.cat([logits, embedding], 1).float().cpu())
        mean = mean_of_windows(torch.cat(outputs), clips["owner"])
        return mean[:, :527], mean[:, 527:]


def sampled(rows: list[dict], split: str, most: int) -> list[dict]:
    """At most `most` labelled clips of each kind of a split, from as many sources as there are."""
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        if row.get("split") == split and not row.get("rendered"):
            groups[row["kind"]].append(row)
    picked = []
    for kind in sorted(groups):
        turns: dict[str, int] = defaultdict(int)
        ranked = []
        for row in sorted(groups[kind], key=lambda row: zlib.crc32(row["id"].encode())):
            ranked.append((turns[row["source"]], len(ranked), row))
            turns[row["source"]] += 1
        picked += [row for *_, row in sorted(ranked, key=lambda entry: entry[:2])[:most]]
    return picked


@torch.no_grad()
def prepare(audio: Tensor, rows: list[dict], teacher: Teacher) -> dict:
    """The windows of clips as the encoder is served them, in float16, and what the teacher makes of the clips."""
    device = next(teacher.parameters()).device
    windows, owner, logits, embeddings = [], [], [], []
    for number, row in enumerate(rows):
        clip = audio[row["start"] : row["start"] + min(row["samples"], round(SECONDS * RATE))].float() / 32768
        heard = teacher(torch.nn.functional.pad(clip, (0, max(0, RATE - len(clip))))[None].to(device))
        logits.append(heard.logits.cpu())
        embeddings.append(heard.embedding.cpu())
        for window in served(clip):
            windows.append(window.half())
            owner.append(number)
    return {
        "windows": torch.cat(windows),
        "owner": torch.tensor(owner),
        "logits": torch.cat(logits),
        "embedding": torch.cat(embeddings),
        "kinds": [row["kind"] for row in rows],
    }


def served(clip: Tensor) -> list[Tensor]:
    """The input features [1, 200, 160] of each window of 4 s of a clip [T] at 32 kHz; short ones are repeated."""
    spectrum = torch.fft.rfft(clip)
    narrow = torch.fft.irfft(spectrum[: len(clip) // 4 + 1], n=len(clip) // 2) / 2
    least = STUDENT_WINDOW // 20
    pieces = [narrow[i : i + STUDENT_WINDOW] for i in range(0, len(narrow), STUDENT_WINDOW)]
    pieces = [piece for i, piece in enumerate(pieces) if i == 0 or len(piece) >= least]
    filled = [piece.repeat(-(-(STUDENT_WINDOW + 240) // len(piece)))[: STUDENT_WINDOW + 240] for piece in pieces]
    return [features(piece[None]) for piece in filled]


def mean_of_windows(values: Tensor, owner: Tensor) -> Tensor:
    """The mean over the windows of each clip: [W, D], owner [W] -> [clips, D]."""
    clips = int(owner.max()) + 1
    total = values.new_zeros(clips, values.shape[1]).index_add_(0, owner, values)
    return total / torch.bincount(owner, minlength=clips)[:, None]


def accuracy(scores: Tensor, truth: list[str], names: list[str]) -> tuple[float, float]:
    """Top-1 and top-5 accuracy, the mean over kinds: scores [clips, len(names)]; other kinds' clips do not count."""
    right: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    best = scores.topk(min(5, len(names)), dim=1).indices.tolist()
    for kind, order in zip(truth, best, strict=True):
        if kind in names:
            right[kind].append((names[order[0]] == kind, kind in (names[i] for i in order)))
    means = [[sum(each) / len(each) for each in zip(*values, strict=True)] for values in right.values()]
    top1, top5 = (sum(each) / len(means) for each in zip(*means, strict=True))
    return top1, top5


def linear_probe(train: Tensor, labels: list[str], test: Tensor, names: list[str], *, ridge: float = 0.03) -> Tensor:
    """Scores [clips, len(names)] of a ridge regression on one-hot labels, in which all kinds weigh the same.

    Args:
        train: [n, D], labels: [n]; kinds that are not in `names` are left out. test: [clips, D].
        ridge: share of the mean variance that is added to all variances.
    """
    kept = [i for i, kind in enumerate(labels) if kind in names]
    column = torch.tensor([names.index(labels[i]) for i in kept])
    mean, std = train.mean(0), train.std(0).clamp_min(1e-5)
    x, y = (train[kept] - mean) / std, torch.nn.functional.one_hot(column, len(names)).float()
    weight = 1 / torch.bincount(column, minlength=len(names))[column].float().sqrt()
    weight = (weight / weight.mean())[:, None]
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    gram = x.T @ (weight * x)
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram))
    solution = torch.linalg.solve(gram, x.T @ (weight * y))
    z = torch.cat([(test - mean) / std, torch.ones(len(test), 1)], 1)
    return z @ solution
