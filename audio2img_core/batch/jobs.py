"""Work on many clips, cut into shards: files that any machine can write, complete or not there, known by their names.

A shard that is written twice, because a machine died before it reported, is the same file again. A stopped job resumes:
it leaves out the clips that are in a shard already.
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
"""Written when all is done: a line for each clip, with the shard that holds it."""
SKIPPED = "skipped.csv"
"""Written beside it: the clips that are invalid, and why."""
SHARD_SIZE = 256
"""Clips per shard by default: as many are in memory at once, and lost where the work is killed."""
_READERS = 16  # shards whose headers are read at once: a store answers slowly, but many at a time
Problem = tuple[str, str]  # key and reason


@dataclass(frozen=True)
class Task:
    """What is handed out at once: some items, which make one shard, or a tar file, which makes several."""

    items: tuple[Any, ...] = ()
    tar: str = ""
    done: frozenset[int] = frozenset()  # numbers of the tar file's shards that are there already
    size: int = 0  # samples in each of them; 0 = the job's


@dataclass(frozen=True)
class Shard:
    """Items that were read and are to be written as one file."""

    name: str  # of the file, without its suffix
    loaded: list[Any]
    origin: Mapping[str, Any] = field(default_factory=dict)  # of a tar file: shard (its name), number, size, last
    problems: tuple[Problem, ...] = ()  # of the tar file itself


@dataclass(frozen=True)
class Report:
    """What came of a shard."""

    done: int
    problems: tuple[Problem, ...]

    @property
    def tried(self) -> int:
        """Items of the shard."""
        return self.done + len(self.problems)


class Job(ABC):
    """A kind of work on many items: how they are read, and how what was read becomes a file.

    It is pickled and sent to where the work is done: all that it needs there must be in it or at paths or URLs that all
    machines see.

    Args:
        output: the folder of the shards, a path or URL.
        size: items in a shard.
    """

    suffix: ClassVar[str]  # of a shard's file
    entries: ClassVar[str]  # name in a shard's header of what is known of each item, by key
    heavy: ClassVar[bool]  # writing computes, on a GPU where there is one: processes of its own are worth it
    output: str
    size: int
    settings: Mapping[str, Any]

    @property
    def on_gpus(self) -> bool:
        """Whether writing takes GPUs where there are some."""
        return True

    @abstractmethod
    def key(self, item: Any) -> str:
        """What names an item."""

    @abstractmethod
    def item(self, sample: Sample, tar: str) -> Any:
        """The item of a tar file's sample."""

    @abstractmethod
    def load(self, items: Sequence[Any]) -> list[Any]:
        """Read items; an invalid one does not raise, but carries its problem."""

    @abstractmethod
    def worker(self) -> Callable[[Shard], Report]:
        """Make what writes shards, which may be slow (a model is loaded)."""

    @abstractmethod
    def header(self, file: str) -> dict[str, Any]:
        """Read what a shard's file holds: settings, bad, the `entries`, and of a tar file shard, number, last.

        Raises:
            ValueError: it is no such file.
        """

    @abstractmethod
    def line(self, key: str, entry: Any) -> dict[str, Any]:
        """The index's line of an item."""

    def is_current(self, item: Any, entry: Any) -> bool:
        """Whether the entry of an item that was done is still that of the item."""
        return True

    def checked(self, facts: Any, file: str) -> dict[str, Any]:
        """Return the facts of a header, as `facts` made them.

        Raises:
            ValueError: the header is not that of a shard.
        """
        if not isinstance(facts, dict) or not facts.keys() >= {"settings", self.entries}:
            raise ValueError(f"{file}: is no shard that audio2img wrote; choose another output")
        return {"bad": [], **facts}

    def facts(self, shard: Shard, entries: Mapping[str, Any], problems: Iterable[Problem]) -> dict[str, Any]:
        """The header of a shard."""
        return {"settings": dict(self.settings), **shard.origin, "bad": list(problems), self.entries: dict(entries)}

    def file(self, shard: Shard) -> str:
        """A shard's path or URL."""
        return joined(self.output, shard.name + self.suffix)

    def shards(self, task: Task, load: Callable[[Sequence[Any]], list[Any]] | None = None) -> Iterator[Shard]:
        """Read a task's items, by `load` in the place of the job's own."""
        load = load or self.load
        if not task.tar:
            yield Shard(f"shard-{_digest(*map(self.key, task.items))}", load(task.items))
            return
        size = task.size or self.size
        stem = f"{base_name(task.tar).split('.')[0]}-{_digest(task.tar)[:8]}"
        waiting: list[Any] = []
        number, final, problems = 0, 0, ()  # of the shard that is waiting, of the tar file's last one

        def wanted(sample: int) -> bool:
            nonlocal final
            final = sample // size
            return final not in task.done

        def shard(number: int, *, last: bool, problems: tuple[Problem, ...] = ()) -> Shard:
            origin = {"shard": task.tar, "number": number, "size": size, "last": last}
            return Shard(f"{stem}-{number:05}", load(waiting), origin, problems)

        try:
            for sample in read_shard(task.tar, wanted):
                if waiting and sample.number // size != number:
                    yield shard(number, last=False)
                    waiting = []
                number = sample.number // size
                waiting.append(self.item(sample, task.tar))
        except DamagedShard as error:
            problems = ((task.tar, f"the shard ends here: {first_line(error)}"),)
        except (OSError, ImportError) as error:  # not the file's fault: it is read again the next time
            yield Shard("", [], problems=((task.tar, f"cannot be read: {message(error)}"),))
            return
        if waiting and number != final:
            yield shard(number, last=False)
            waiting = []
        if waiting or final not in task.done:  # an empty one records that the tar file ends here, and why
            yield shard(final, last=True, problems=problems)


class Folder:
    """What a job has written so far, and files of the same kind that it adds to.

    Raises:
        ValueError: a file is not a shard, or was written with other settings.
    """

    def __init__(self, job: Job, *others: str):
        self.job = job
        files = [*others, *(file for file in files_below(job.output) if file.endswith(job.suffix))]
        with ThreadPoolExecutor(_READERS) as pool:
            self.headers = dict(zip(files, pool.map(job.header, files), strict=True))
        for file, header in self.headers.items():
            changed = [name for name, value in job.settings.items() if header["settings"].get(name) != value]
            if changed:
                raise ValueError(
                    f"{file}: was made with another {' and '.join(changed)}; choose another output, or remove it first"
                )

    def done(self) -> dict[str, Any]:
        """The entries of the items that are there, by key."""
        return {key: entry for header in self.headers.values() for key, entry in header[self.job.entries].items()}

    def tasks(self, items: Sequence[Any], tars: Sequence[str]) -> tuple[list[Task], int]:
        """What is left to do, and how many of the items are done."""
        done, size = self.done(), self.job.size
        keys = [(item, self.job.key(item)) for item in items]
        left = [item for item, key in keys if key not in done or not self.job.is_current(item, done[key])]
        tasks = [Task(items=tuple(left[i : i + size])) for i in range(0, len(left), size)]
        for tar in tars:
            shards = [header for header in self.headers.values() if header.get("shard") == tar]
            there = {header["number"]: header["last"] for header in shards}
            if not (any(there.values()) and len(there) == max(there) + 1):
                tasks.append(Task(tar=tar, done=frozenset(there), size=shards[0]["size"] if shards else 0))
        return tasks, len(items) - len(left)

    def finish(self, problems: Iterable[Problem] = ()) -> dict[str, str]:
        """Write `index.jsonl` and `skipped.csv`.

        Args:
            problems: those of this run; the shards record those that lie beside valid items.

        Returns:
            The reason of each invalid item, by its key.
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
                line = {**self.job.line(key, entry), "shard": base_name(file)}
                lines.setdefault(key, json.dumps(line, ensure_ascii=False) + "\n")
        write(joined(self.job.output, INDEX), "".join(lines[key] for key in sorted(lines)).encode())


def _digest(*keys: str) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for key in keys:
        digest.update(f"{len(key)} {key}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
