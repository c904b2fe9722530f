"""Actors that take turns. Exactly one runs at a time, so that a seed alone decides what happens.

An actor stands at *points*: before and after every transaction and every call of the executor, and between look and
apply. Between two points nothing else happens, which is all that SQLite allows anyway: its writers come one at a time,
and a reader sees one moment. So every order in which two processes can act on one database can be played.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Crash(BaseException):
    """The process is killed here. No handler of the code under test may see it as an error."""


class Actor:
    """`work` on a thread of its own, which moves only within `go_on`."""

    def __init__(self, name: str, work: Callable[[], None]):
        self.name = name
        self.place = "the beginning"
        self.error: Exception | None = None
        self.is_over = False
        self._work = work
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._dies = False
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Let it run up to its next point, or to its end."""
        self._turn.release()
        self._back.acquire()
        if self.is_over:
            self._thread.join()

    def kill(self) -> None:
        """It dies where it stands."""
        self._dies = True
        while not self.is_over:
            self.go_on()

    def stand(self, place: str) -> None:
        """A point; for the actor itself."""
        self.place = place
        self._back.release()
        self._turn.acquire()
        if self._dies:
            raise Crash

    def _live(self) -> None:
        self._turn.acquire()
        try:
            if not self._dies:
                self._work()
        except Crash:
            pass
        except Exception as error:  # what no code may do, whatever happened to it: the world reports it
            self.error = error
        self.is_over = True
        self._back.release()
