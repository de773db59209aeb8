"""Decoding and cutting clips, and encoding captions, ahead of training."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from audio2img_core.audio.clips import AudioClip
from audio2img_core.batch.jobs import SKIPPED, Folder, Problem
from audio2img_core.batch.jobs import engine as engine_of
from audio2img_core.checks import positive_int
from audio2img_core.storage.files import check_writable, remove_partials, whole_file
from audio2img_core.storage.paths import absolute, is_url

from ..config import FitConfig, keep_settings
from ..teacher.captions import CaptionCache
from ..teacher.text_encoder import OnStep, Teacher
from .clip_shards import PrepareJob
from .clips import Source
from .config import DataConfig
from .flac import write_flac
from .hub_datasets import DatasetSource
from .reading import try_clip
from .skiplog import SkipLog
from .sources import open_source

MANIFEST = "metadata.jsonl"
_JOURNAL = "journal.jsonl"
_FOLDER_SIZE = 1000  # clips in one folder
_AHEAD = 8  # clips handed out ahead of the one that is waited for, for each process


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
    part_size: int = 1000,
    on_clip: OnStep | None = None,
    on_caption: OnStep | None = None,
) -> Prepared:
    """Write the clips of `run.data` as 16 kHz mono FLAC of 16 bits into `run.output`, which `fit` then takes as data.

    On one machine they are files of their own; by the engine "ray", and at an address, they lie in tar shards.

    A clip is cut at its table's start and end, and at `data.max_seconds`; at the window's length where nothing else
    would ever be shown (`data.random_crop` off). With `run.teacher` the captions are encoded too, into `run.captions`
    or `captions/` of the folder, where `fit` finds them. A stopped call goes on; bad clips are listed in `skipped.csv`.

    Args:
        config: its sections `run` (data, split, output, teacher, target) and `data`.
        jobs: processes that decode; a Ray cluster takes as many as it has cores.
        engine: "local" or "ray". part_size: clips of a tar shard.
        on_clip: called as on_clip(done, in all; 0 = not known, of a stream). on_caption: see `CaptionCache.add`.

    Raises:
        ValueError, FileNotFoundError: settings, data or folder that cannot be, too many bad clips.
        RuntimeError: a process died; what is done is kept.
    """
    run, jobs, part_size = config.run, positive_int(jobs, "jobs"), positive_int(part_size, "part_size")
    run.require("data", "output")
    if not is_url(run.output):
        check_writable(run.output)
    elif run.teacher and not run.captions:
        raise ValueError(f"{run.output}: captions are cached in a folder of this machine: name run.captions")
    shared = engine == "ray" and os.path.exists(run.data)  # by a name that other processes understand
    source = open_source(absolute(run.data) if shared else run.data, split=run.split or None)
    teacher = Teacher.from_pretrained(run.teacher, run.target) if run.teacher else None
    cut = _cut(config.data)
    settings = {"data": run.data, "split": run.split, **asdict(cut)}
    if engine == "ray" or is_url(run.output):
        lazy = source if isinstance(source, DatasetSource) else None
        job = PrepareJob(absolute(run.output), settings, cut, part_size, lazy)
        said, bad = _to_shards(source, job, engine, config.data.max_bad_share, on_clip)
    else:
        said, bad = _to_files(source, Path(run.output), settings, cut, jobs, config.data.max_bad_share, on_clip)
    captions = list(dict.fromkeys(itertools.chain.from_iterable(said)))
    if teacher is not None:
        CaptionCache(run.captions or Path(run.output) / "captions", teacher).add(captions, on_step=on_caption)
    return Prepared(len(said), bad, len(captions))


def _to_shards(
    source: Source,
    job: PrepareJob,
    engine: str,
    max_bad_share: float,
    on_clip: OnStep | None,
) -> tuple[list[Sequence[str]], int]:
    """Captions of each clip that could be prepared, and how many could not."""
    run_tasks = engine_of(engine)
    if not is_url(job.output) and (Path(job.output) / MANIFEST).exists():
        raise ValueError(f"{job.output}: holds clips that are files of their own; choose another output")
    items = [] if source.streaming else range(len(source)) if job.source else list(source)
    tasks, done = Folder(job).tasks(items, source.shards if source.streaming else ())
    problems: list[Problem] = []
    # An address takes whole files only: the list that grows lies here, and stays where the work stops for it.
    logs = Path(tempfile.mkdtemp(prefix="audio2img-prepare-") if is_url(job.output) else job.output)
    skipped = SkipLog(logs / SKIPPED, max_bad_share=max_bad_share)
    skipped.tried = done  # their share is of all clips, not of those that are left, the bad ones among them
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
    if not folder.done():
        raise ValueError(f"{source.name}: none of the {done} clips could be prepared: see {skipped.path}")
    bad = folder.finish(problems)
    said = [captions for header in folder.headers.values() for captions in header[job.entries].values()]
    return said, len(bad)


def _to_files(
    source: Source,
    output: Path,
    settings: Mapping[str, Any],
    cut: DataConfig,
    jobs: int,
    max_bad_share: float,
    on_clip: OnStep | None,
) -> tuple[list[Sequence[str]], int]:
    """Captions of each clip that could be prepared, and how many could not."""
    differing = keep_settings(output / "prepared.yaml", settings)
    if differing:
        raise ValueError(f"{output}: was prepared with other settings ({', '.join(differing)}); choose another output")
    skipped = SkipLog(output / SKIPPED, max_bad_share=max_bad_share)
    entries = _read_journal(output / _JOURNAL)
    for folder in (output, *(output / "clips").glob("*")):
        remove_partials(folder)
    total = 0 if source.streaming else len(source)
    if on_clip is not None and entries:
        on_clip(len(entries), total)
    with open(output / _JOURNAL, "a", encoding="utf-8") as journal:
        for index, entry in _work(source, set(entries), output, cut, jobs):
            skipped.update({"tried": 1, "skipped": [(entry["key"], entry["problem"])] if entry["problem"] else []})
            entries[index] = entry
            journal.write(json.dumps({"index": index, **entry}) + "\n")
            journal.flush()
            if on_clip is not None:
                on_clip(len(entries), total)
    skipped.finish()
    good = [entries[index] for index in sorted(entries) if not entries[index]["problem"]]
    if not good:
        raise ValueError(f"{source.name}: none of the {len(entries)} clips could be prepared: see {skipped.path}")
    with whole_file(output / MANIFEST) as partial:
        lines = (json.dumps({"audio": entry["audio"], "caption": entry["captions"]}) + "\n" for entry in good)
        partial.write_text("".join(lines), encoding="utf-8")
    return [entry["captions"] for entry in good], len(entries) - len(good)


def _cut(data: DataConfig) -> DataConfig:
    """What is stored of a clip: all that a training with these settings could show."""
    return data if not data.random_crop else replace(data, window_seconds=None)


def _work(
    source: Source, done: set[int], output: Path, config: DataConfig, jobs: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Entries of the clips that are not done, in their order; several processes work ahead."""
    clips = ((index, clip) for index, clip in enumerate(source) if index not in done)
    if jobs == 1:
        for index, clip in clips:
            yield index, _prepare_clip(index, clip, output, config)
        return
    waiting: deque[tuple[int, Future]] = deque()
    # Not forked: a fork of a process with running threads, as torch's, can hang.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        try:
            for index, clip in clips:
                waiting.append((index, pool.submit(_prepare_clip, index, clip, output, config)))
                if len(waiting) >= jobs * _AHEAD:
                    index, future = waiting.popleft()
                    yield index, future.result()
            while waiting:
                index, future = waiting.popleft()
                yield index, future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a process died near clip {index}, killed or out of memory; what is done is kept: start again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _prepare_clip(index: int, clip: AudioClip, output: Path, config: DataConfig) -> dict[str, Any]:
    name = f"clips/{index // _FOLDER_SIZE:06}/{index:09}.flac"
    entry: dict[str, Any] = {"key": clip.key, "audio": name, "captions": list(clip.captions), "problem": ""}
    waveform, problem = try_clip(clip, config)
    if waveform is None:
        return {**entry, "problem": problem}
    write_flac(output / name, waveform)
    return entry


def _read_journal(path: Path) -> dict[int, dict[str, Any]]:
    """Index -> entry; a last line that a killed call left half written is cut off."""
    entries: dict[int, dict[str, Any]] = {}
    if not path.is_file():
        return entries
    whole = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            entry = json.loads(line)
            entries[entry.pop("index")] = entry
            whole += len(line)
    if whole < path.stat().st_size:
        with open(path, "r+b") as file:
            file.truncate(whole)
    return entries
