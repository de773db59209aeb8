"""Taking turns at the models, first come, first served."""

from __future__ import annotations

import threading
from typing import Any


class Turns:
    """A lock that is given in the order in which it is asked for: `with turns: ...`.

    Python's own lock may be taken again and again by the thread that has just let it go.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._given = 0  # tickets
        self._served = 0  # the ticket whose turn it is
        self._closed = False

    def __enter__(self) -> Turns:
        """Wait for a turn.

        Raises:
            ValueError: closed.
        """
        self._wait()
        try:
            self._check()
        except ValueError:
            self._end()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._end()

    def pass_on(self) -> None:
        """Within a turn: let those who wait go first, and wait for another turn.

        Raises:
            ValueError: closed.
        """
        self._end()
        self._wait()
        self._check()

    def close(self, *, timeout: float = 30.0) -> None:
        """Give no more turns, and wait up to `timeout` seconds until whoever has one has ended it."""
        with self._condition:
            self._closed = True
            self._condition.wait_for(lambda: self._served == self._given, timeout)

    def _wait(self) -> None:
        with self._condition:
            ticket = self._given
            self._given += 1
            self._condition.wait_for(lambda: self._served == ticket)

    def _end(self) -> None:
        with self._condition:
            self._served += 1
            self._condition.notify_all()

    def _check(self) -> None:
        if self._closed:
            raise ValueError("the page is being closed")
