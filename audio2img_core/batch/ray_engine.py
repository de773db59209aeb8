"""A job's tasks on a Ray cluster: shards are read on CPUs and, where that computes, written on GPUs (Ray Data).

A task or a process that dies with its machine is done again elsewhere by Ray; a shard that was written before is then
the same file once more.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..checks import first_line
from .jobs import Job, Report, Shard, Task

if TYPE_CHECKING:
    import numpy as np

_CPUS = 8  # of a machine without a GPU that an encoder has, so that not each of them holds a model of its own
_RETRIES = 20  # of one process: machines die, but a shard that kills each that takes it must not go round for ever
_ERRORS = (ValueError, OSError, ImportError)  # those that say in one line what a user can change


def connect() -> Any:
    """The `ray` module, connected to the cluster that runs here (`ray start`, or $RAY_ADDRESS), or to a new local one.

    Raises:
        ImportError: Ray is missing. OSError: the cluster cannot be reached.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("the engine 'ray' needs Ray: pip install 'audio2img[ray]'") from error
    if not ray.is_initialized():
        # Its C++ part would complain of what Ray Data does to itself.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            raise OSError(f"the Ray cluster cannot be reached: {first_line(error)}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def has_gpus() -> bool:
    """Whether the cluster has GPUs."""
    return connect().cluster_resources().get("GPU", 0) > 0


def run_ray(job: Job, tasks: Sequence[Task]) -> Iterator[Report]:
    """Do the tasks on the cluster; their reports come in the order in which they end.

    Raises:
        what a job's methods raise, as the first process raised it; RuntimeError: Ray's own faults.
    """
    if not tasks:
        return
    ray = connect()
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1] or [1]  # a head may have none
    cpus, gpus = sum(cores), int(sum(machine.get("GPU", 0) for machine in machines)) * job.on_gpus
    data = ray.data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))
    options = {"fn_constructor_args": (job,), "batch_size": 1, "max_restarts": _RETRIES, "max_task_retries": _RETRIES}
    if job.heavy and gpus:
        data = data.map_batches(_Read, num_cpus=1, concurrency=(1, cpus), **options)
        data = data.map_batches(_Write, num_gpus=1, num_cpus=0, concurrency=(1, gpus), **options)
    else:
        each = min(_CPUS, *cores) if job.heavy else 1
        options["fn_constructor_args"] = (job, each)
        data = data.map_batches(_ReadAndWrite, num_cpus=each, concurrency=(1, max(1, cpus // each)), **options)
    try:
        for row in data.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, Exception):
                raise result
            yield result
    except ray.exceptions.RayError as error:
        cause: BaseException = error
        while (below := getattr(cause, "cause", None) or cause.__cause__) is not None:
            cause = below
        said = f"{type(cause).__name__}: {first_line(cause) if str(cause) else 'no more is known'}"
        raise RuntimeError(f"Ray: {said}; what is done is kept: start again") from error


class _Read:
    """Tasks to shards, one after another, so that a tar file's first one is written while the next is read."""

    def __init__(self, job: Job):
        _threads(1)
        self.job = job

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[bytes]]]:
        for task in batch["task"]:
            for shard in _or_error(self.job.shards(pickle.loads(task))):
                yield {"shard": [pickle.dumps(shard, protocol=5)]}


class _Write:
    """Shards to reports."""

    def __init__(self, job: Job):
        self.write = _writer(job)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        return {"result": [pickle.dumps(self.write(pickle.loads(shard))) for shard in batch["shard"]]}


class _ReadAndWrite:
    """Tasks to reports, in one process."""

    def __init__(self, job: Job, threads: int):
        _threads(threads)
        self.job, self.write = job, _writer(job)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[bytes]]]:
        for task in batch["task"]:
            for shard in _or_error(self.job.shards(pickle.loads(task))):
                yield {"result": [pickle.dumps(self.write(shard))]}


def _writer(job: Job) -> Callable[[Shard | Exception], Report | Exception]:
    """The job's worker, whose errors, those of its making too, are results: Ray would try them again, and wrap them."""
    try:
        write = job.worker()
    except _ERRORS as error:
        failure = error
        return lambda _: failure

    def write_or_error(shard: Shard | Exception) -> Report | Exception:
        if isinstance(shard, Exception):
            return shard
        try:
            return write(shard)
        except _ERRORS as error:
            return error

    return write_or_error


def _or_error(shards: Iterator[Shard]) -> Iterator[Shard | Exception]:
    try:
        yield from shards
    except _ERRORS as error:
        yield error


def _threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)
