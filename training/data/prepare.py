"""Decoding and cutting clips, and encoding captions, ahead of training."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from audio2img_core.batch.engines import engine as engine_of
from audio2img_core.batch.jobs import SHARD_SIZE, SKIPPED, Folder, Problem
from audio2img_core.checks import positive_int
from audio2img_core.storage.files import check_writable, remove_partials
from audio2img_core.storage.paths import absolute, is_url

from ..config import FitConfig
from ..teacher.captions import CaptionCache
from ..teacher.text_encoder import OnStep, Teacher
from .clip_shards import PrepareJob
from .clips import Source
from .config import DataConfig
from .hub_datasets import DatasetSource
from .shards import TarSource
from .skiplog import SkipLog
from .sources import open_source


@dataclass(frozen=True)
class Prepared:
    """What a prepared folder holds."""

    clips: int
    bad: int
    captions: int


def prepare(
    config: FitConfig,
    *,
    jobs: int = 1,
    engine: str = "local",
    shard_size: int = SHARD_SIZE,
    on_clip: OnStep | None = None,
    on_caption: OnStep | None = None,
) -> Prepared:
    """Write the clips of `run.data` as tar shards of 16 kHz mono FLAC into `run.output`, which `fit` takes as data.

    A clip is cut at its manifest's start and end, and at `data.max_seconds`; at the window's length where nothing else
    would ever be shown (`data.random_crop` off). With `run.teacher` the captions are encoded too, into `run.captions`
    or `captions/` of the folder, where `fit` finds them. A stopped call resumes; bad clips are listed in `skipped.csv`.

    Args:
        config: its sections `run` (data, split, output, teacher, target) and `data`.
        jobs: processes that decode; a Ray cluster takes as many as it has cores.
        engine: "local" or "ray".
        shard_size: clips per shard.
        on_clip: called as on_clip(done, in all; 0 = unknown, for a stream).
        on_caption: see `CaptionCache.add`.

    Raises:
        ValueError, FileNotFoundError: invalid settings, data or folder, or too many bad clips.
        RuntimeError: a process died; what is done is kept.
    """
    run, jobs, shard_size = config.run, positive_int(jobs, "jobs"), positive_int(shard_size, "shard_size")
    run.require("data", "output")
    if not is_url(run.output):
        check_writable(run.output)
        if (Path(run.output) / "metadata.jsonl").exists():
            raise ValueError(f"{run.output}: holds clips that are files of their own; choose another output")
    elif run.teacher and not run.captions:
        raise ValueError(f"{run.output}: captions are cached in a folder of this machine: name run.captions")
    shared = engine == "ray" and os.path.exists(run.data)  # by a name that other processes understand
    source = open_source(absolute(run.data) if shared else run.data, split=run.split or None)
    teacher = Teacher.from_pretrained(run.teacher, run.target) if run.teacher else None
    cut = _cut(config.data)
    settings = {"data": run.data, "split": run.split, **asdict(cut)}
    lazy = source if isinstance(source, DatasetSource) else None
    job = PrepareJob(absolute(run.output), settings, cut, shard_size, lazy)
    done, bad = _write_shards(source, job, engine, jobs, config.data.max_bad_share, on_clip)
    captions = list(dict.fromkeys(itertools.chain.from_iterable(done)))
    if teacher is not None:
        CaptionCache(run.captions or Path(run.output) / "captions", teacher).add(captions, on_step=on_caption)
    return Prepared(len(done), bad, len(captions))


def _write_shards(
    source: Source, job: PrepareJob, engine: str, jobs: int, max_bad_share: float, on_clip: OnStep | None
) -> tuple[list[Sequence[str]], int]:
    """The captions of each clip that could be prepared, and how many could not."""
    run_tasks = engine_of(engine, jobs=jobs)
    if engine == "local" and os.path.isdir(job.output):
        remove_partials(Path(job.output))
    items = [] if isinstance(source, TarSource) else range(len(source)) if job.source else list(source)
    tasks, done = Folder(job).tasks(items, source.shards if isinstance(source, TarSource) else ())
    problems: list[Problem] = []
    # A URL takes complete files only: the list that grows lies here, and stays where the work stops for it.
    logs = Path(tempfile.mkdtemp(prefix="audio2img-prepare-") if is_url(job.output) else job.output)
    skipped = SkipLog(logs / SKIPPED, max_bad_share=max_bad_share)
    skipped.tried = done  # their share is of all clips, not of those that are left, the bad ones among them
    if on_clip is not None and done:
        on_clip(done, len(items))
    for report in run_tasks(job, tasks):
        skipped.update({"tried": report.tried, "skipped": report.problems})
        problems += report.problems
        done += report.tried
        if on_clip is not None:
            on_clip(done, len(items))
    skipped.finish()
    if is_url(job.output):
        shutil.rmtree(logs)
    folder = Folder(job)
    entries = folder.done()
    if not entries:
        raise ValueError(f"{source.name}: none of the {done} clips could be prepared: see {skipped.path}")
    return [entry["captions"] for entry in entries.values()], len(folder.finish(problems))


def _cut(data: DataConfig) -> DataConfig:
    """What is stored of a clip: all that a training with these settings could show."""
    return data if not data.random_crop else replace(data, window_seconds=None)
