"""Work cut in parts that any machine can do: each part is one file, whole or not there, and is known by its name.

A part that is done twice, because the machine that did it died before it said so, is the same file again. So a stopped
work goes on where it was: what the files there hold is left out.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..checks import first_line, message
from ..storage.paths import base_name, files_below, joined, write
from ..storage.shards import DamagedShard, Sample, read_shard

INDEX = "index.jsonl"
"""Written when all is done: a line for each thing, with the part that holds it."""
SKIPPED = "skipped.csv"
"""Written beside it: the items that are bad, and why."""
_READERS = 16  # parts whose headers are read at once: a store answers slowly, but many at a time
Problem = tuple[str, str]  # key and reason


@dataclass(frozen=True)
class Task:
    """What is handed out at once: some items, which make one part, or a tar shard, which makes several."""

    items: tuple[Any, ...] = ()
    shard: str = ""
    done: frozenset[int] = frozenset()  # numbers of the shard's parts that are there already
    size: int = 0  # samples in each of them; 0 = the job's


@dataclass(frozen=True)
class Part:
    """Items that were read and are to be written as one file."""

    name: str  # of the file, without its suffix
    loaded: list[Any]
    origin: Mapping[str, Any] = field(default_factory=dict)  # of a tar shard: shard, number, size, last
    problems: tuple[Problem, ...] = ()  # of the shard itself


@dataclass(frozen=True)
class Report:
    """What came of a part."""

    done: int
    problems: tuple[Problem, ...]

    @property
    def tried(self) -> int:
        """Items of the part."""
        return self.done + len(self.problems)


class Job(ABC):
    """A kind of work on many items: how they are read, and how what was read becomes a file.

    It is pickled and sent to where the work is done: all that it needs there must be in it or at addresses that all
    machines see.

    Args:
        output: the folder of the parts, a path or an address.
        size: items in a part.
    """

    suffix: ClassVar[str]  # of a part's file
    entries: ClassVar[str]  # name in a part's header of what is known of each item, by key
    heavy: ClassVar[bool]  # writing computes, on a GPU where there is one: processes of its own are worth it
    output: str
    size: int
    settings: Mapping[str, Any]
    on_gpus = True  # where there are some

    @abstractmethod
    def key(self, item: Any) -> str:
        """What names an item."""

    @abstractmethod
    def item(self, sample: Sample, shard: str) -> Any:
        """The item of a tar shard's sample."""

    @abstractmethod
    def load(self, items: Sequence[Any]) -> list[Any]:
        """Read items; one that is bad does not raise, but tells its problem."""

    @abstractmethod
    def worker(self) -> Callable[[Part], Report]:
        """Make what writes parts, which may be slow (a model is loaded)."""

    @abstractmethod
    def header(self, file: str) -> dict[str, Any]:
        """What a part's file says of itself: settings, bad, the `entries`, and of a tar shard shard, number, last.

        Raises:
            ValueError: it is no such file.
        """

    @abstractmethod
    def line(self, key: str, entry: Any) -> dict[str, Any]:
        """The index's line of an item."""

    def checked(self, facts: Any, file: str) -> dict[str, Any]:
        """The facts of a header as `facts` made them.

        Raises:
            ValueError: they are none.
        """
        if not isinstance(facts, dict) or not facts.keys() >= {"settings", self.entries}:
            raise ValueError(f"{file}: is no part that audio2img wrote; choose another output")
        return {"bad": [], **facts}

    def facts(self, part: Part, entries: Mapping[str, Any], problems: Iterable[Problem]) -> dict[str, Any]:
        """The header of a part."""
        return {"settings": dict(self.settings), **part.origin, "bad": list(problems), self.entries: dict(entries)}

    def file(self, part: Part) -> str:
        """A part's path or address."""
        return joined(self.output, part.name + self.suffix)

    def parts(self, task: Task) -> Iterator[Part]:
        """Read a task's items."""
        if not task.shard:
            yield Part(f"part-{_digest(*map(self.key, task.items))}", self.load(task.items))
            return
        size = task.size or self.size
        stem = f"{base_name(task.shard).split('.')[0]}-{_digest(task.shard)[:8]}"
        waiting: list[Any] = []
        number, final, problems = 0, 0, ()  # of the part that is waiting, of the last one of the shard

        def wanted(sample: int) -> bool:
            nonlocal final
            final = sample // size
            return final not in task.done

        def part(number: int, *, last: bool, problems: tuple[Problem, ...] = ()) -> Part:
            origin = {"shard": task.shard, "number": number, "size": size, "last": last}
            return Part(f"{stem}-{number:05}", self.load(waiting), origin, problems)

        try:
            for sample in read_shard(task.shard, wanted):
                if waiting and sample.number // size != number:
                    yield part(number, last=False)
                    waiting = []
                number = sample.number // size
                waiting.append(self.item(sample, task.shard))
        except DamagedShard as error:
            problems = ((task.shard, f"the shard ends here: {first_line(error)}"),)
        except (OSError, ImportError) as error:  # not the shard's fault: it is read again the next time
            yield Part("", [], problems=((task.shard, f"cannot be read: {message(error)}"),))
            return
        if waiting and number != final:
            yield part(number, last=False)
            waiting = []
        if waiting or final not in task.done:  # an empty one tells that the shard ends here, and why
            yield part(final, last=True, problems=problems)


class Folder:
    """What a job has written so far.

    Raises:
        ValueError: parts of other settings, or files that are none.
    """

    def __init__(self, job: Job):
        self.job = job
        files = [file for file in files_below(job.output) if file.endswith(job.suffix)]
        with ThreadPoolExecutor(_READERS) as pool:
            self.headers = dict(zip(files, pool.map(job.header, files), strict=True))
        for file, header in self.headers.items():
            changed = [name for name, value in job.settings.items() if header["settings"].get(name) != value]
            if changed:
                raise ValueError(
                    f"{file}: was made with another {' and '.join(changed)}; choose another output, or remove it first"
                )

    def done(self) -> set[str]:
        """Keys of the items that are there."""
        return {key for header in self.headers.values() for key in header[self.job.entries]}

    def tasks(self, items: Sequence[Any], shards: Sequence[str]) -> tuple[list[Task], int]:
        """What is left to do, and how many of the items are done."""
        done, size = self.done(), self.job.size
        left = [item for item in items if self.job.key(item) not in done]
        tasks = [Task(items=tuple(left[i : i + size])) for i in range(0, len(left), size)]
        for shard in shards:
            parts = [header for header in self.headers.values() if header.get("shard") == shard]
            there = {header["number"]: header["last"] for header in parts}
            if not (any(there.values()) and len(there) == max(there) + 1):
                tasks.append(Task(shard=shard, done=frozenset(there), size=parts[0]["size"] if parts else 0))
        return tasks, len(items) - len(left)

    def finish(self, problems: Iterable[Problem] = ()) -> dict[str, str]:
        """Write `index.jsonl` and `skipped.csv`.

        Args:
            problems: those of this run; the parts know of those that lie beside good items.

        Returns:
            The reason of each item that is bad, by its key.
        """
        self._write_index()
        known = itertools.chain(*(header["bad"] for header in self.headers.values()), problems)
        done = self.done()
        bad = {key: reason for key, reason in known if key not in done}
        text = io.StringIO(newline="")
        csv.writer(text).writerows([("key", "reason"), *bad.items()])
        write(joined(self.job.output, SKIPPED), text.getvalue().encode())
        return bad

    def _write_index(self) -> None:
        lines: dict[str, str] = {}
        for file, header in self.headers.items():
            for key, entry in header[self.job.entries].items():
                line = {**self.job.line(key, entry), "part": base_name(file)}
                lines.setdefault(key, json.dumps(line, ensure_ascii=False) + "\n")
        write(joined(self.job.output, INDEX), "".join(lines[key] for key in sorted(lines)).encode())


def run_local(job: Job, tasks: Sequence[Task], write_part: Callable[[Part], Report] | None = None) -> Iterator[Report]:
    """Do the tasks in this process; the next part is read while one is written.

    Args:
        write_part: the job's worker where it is made already; None = it is made.
    """
    if not tasks:
        return
    parts = (part for task in tasks for part in job.parts(task))
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(next, parts, None)
        write_part = write_part or job.worker()
        while (part := following.result()) is not None:
            following = ahead.submit(next, parts, None)
            yield write_part(part)


def engine(name: str) -> Callable[[Job, Sequence[Task]], Iterator[Report]]:
    """What does tasks: "local" or "ray".

    Raises:
        ValueError: another name. ImportError, OSError: Ray is missing, or its cluster cannot be reached.
    """
    if name == "local":
        return run_local
    if name != "ray":
        raise ValueError(f"unknown engine {name!r}: choose local or ray")
    from .ray_engine import connect, run_ray

    connect()
    return run_ray


def _digest(*keys: str) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for key in keys:
        digest.update(f"{len(key)} {key}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
