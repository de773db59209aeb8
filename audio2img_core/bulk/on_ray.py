"""A job's tasks on a Ray cluster: parts are read on CPUs and written, where that computes, on GPUs (Ray Data).

A task or a process that dies with its machine is done again elsewhere by Ray; a part that was written before is then
the same file once more.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..checks import first_line
from .parts import Job, Report, Task

# On a cluster without GPUs an encoder has up to so many CPUs of a machine, so that not each of them holds a model, less
# the share of one for the process that decodes for it.
_CPUS, _SHARE_TO_READ = 8, 0.25


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
    cpus = max(1, int(sum(machine.get("CPU", 0) for machine in machines)))
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    each = min(_CPUS, *(max(1, int(machine.get("CPU", 1))) for machine in machines))
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    reading = {"num_cpus": 1, "concurrency": (1, cpus)}
    if not job.heavy:
        data = data.map_batches(_ReadAndWrite, fn_constructor_args=(job,), batch_size=1, **reading)
    elif gpus:
        data = data.map_batches(_Read, fn_constructor_args=(job,), batch_size=1, **reading)
        writing = {"num_gpus": 1, "concurrency": (1, gpus)}
        data = data.map_batches(_Write, fn_constructor_args=(job, None), batch_size=1, **writing)
    else:
        pairs = (1, max(1, cpus // each))
        reading = {"num_cpus": _SHARE_TO_READ, "concurrency": pairs}
        data = data.map_batches(_Read, fn_constructor_args=(job,), batch_size=1, **reading)
        writing = {"num_cpus": each - _SHARE_TO_READ, "concurrency": pairs}
        data = data.map_batches(_Write, fn_constructor_args=(job, each), batch_size=1, **writing)
    try:
        for row in data.iter_rows():
            yield pickle.loads(row["report"])
    except ray.exceptions.RayTaskError as error:
        cause = error
        while (below := getattr(cause, "cause", None) or cause.__cause__) is not None:
            cause = below
        raise cause from None
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"Ray: {first_line(error)}; what is done is kept: start again") from error


class _Read:
    """Tasks to parts, one after another, so that a tar shard's first part is written while the next is read."""

    def __init__(self, job: Job):
        _threads(1)
        self.job = job

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[bytes]]]:
        for task in batch["task"]:
            for part in self.job.parts(pickle.loads(task)):
                yield {"part": [pickle.dumps(part, protocol=5)]}


class _Write:
    """Parts to reports."""

    def __init__(self, job: Job, threads: int | None):
        if threads is not None:
            _threads(threads)
        self.write = job.worker()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        return {"report": [pickle.dumps(self.write(pickle.loads(part))) for part in batch["part"]]}


class _ReadAndWrite:
    """Tasks to reports, in one process."""

    def __init__(self, job: Job):
        _threads(1)
        self.job, self.write = job, job.worker()

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[bytes]]]:
        for task in batch["task"]:
            for part in self.job.parts(pickle.loads(task)):
                yield {"report": [pickle.dumps(self.write(part))]}


def _threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)
