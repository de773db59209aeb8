"""The engines that do a job's tasks: this machine, or a Ray cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

import torch

from .jobs import Job, Report, Shard, Task
from .ray_engine import connect, run_ray

_CHUNK = 8  # clips that a process takes at once: many processes then end a shard together


def run_local(
    job: Job, tasks: Sequence[Task], write: Callable[[Shard], Report] | None = None, *, jobs: int = 1
) -> Generator[Report, None, None]:
    """Do the tasks on this machine; the next shard is read while one is written.

    Args:
        write: the job's worker where it is made already; None = it is made.
        jobs: processes that read; 1 = a thread of this process.

    Raises:
        RuntimeError: one of the processes died.
    """
    if not tasks:
        return
    write = write or job.worker()
    # Left in this order: what waits for the processes is cancelled before the thread that waits for it ends.
    with ThreadPoolExecutor(1) as ahead, _loading(job, jobs) as load:
        shards = (shard for task in tasks for shard in job.shards(task, load))
        following = ahead.submit(next, shards, None)
        try:
            while (shard := following.result()) is not None:
                following = ahead.submit(next, shards, None)
                yield write(shard)
        except BrokenProcessPool as error:
            raise RuntimeError("a process died, killed or out of memory; what is done is kept: start again") from error


def engine(name: str, *, jobs: int = 1) -> Callable[[Job, Sequence[Task]], Iterator[Report]]:
    """Return what does tasks: "local", in `jobs` processes, or "ray", on all of a cluster's.

    Raises:
        ValueError: another name. ImportError, OSError: Ray is missing, or its cluster cannot be reached.
    """
    if name == "local":
        return partial(run_local, jobs=jobs)
    if name != "ray":
        raise ValueError(f"unknown engine {name!r}: choose local or ray")
    connect()
    return run_ray


@contextlib.contextmanager
def _loading(job: Job, jobs: int) -> Iterator[Callable[[Sequence[Any]], list[Any]]]:
    """`job.load`, by several processes."""
    if jobs == 1:
        yield job.load
        return
    # Not forked: a fork of a process with running threads, as torch's, can hang.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_start_process, initargs=(job,))

    def load(items: Sequence[Any]) -> list[Any]:
        chunks = [items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK)]
        return [loaded for chunk in pool.map(_load, chunks) for loaded in chunk]

    try:
        yield load
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_job: Job | None = None  # of a process of the pool


def _start_process(job: Job) -> None:
    global _job
    _job = job
    torch.set_num_threads(1)


def _load(items: Sequence[Any]) -> list[Any]:
    assert _job is not None
    return _job.load(items)
