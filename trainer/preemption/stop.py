"""Requests to stop, whatever the main thread is doing: SIGTERM, SIGINT, a notice file, a cloud's notice, a deadline.

A thread watches, since Python runs signal handlers only between two instructions of the main thread, which may be deep
in a compilation or a step of half a minute. The main thread asks `requested` wherever it can stop. When it has not
stopped in time, the watching thread ends the process instead.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from trainer.contract import grace
from trainer.contract.exits import SOURCE_UNREACHABLE

LOOK_EVERY_S = 0.5  # for a notice that has no signal
NO_DATA = "a source of data that does not answer"
_NUDGE = b"\0"  # on the pipe, beside signal numbers


@dataclass(frozen=True, kw_only=True)
class StopRequest:
    source: str  # SIGTERM, SIGINT, file, deadline, NO_DATA, or a cloud and what it said
    ends_at: float | None = None  # when the machine goes, in Unix seconds, where the notice says so

    @property
    def reason(self) -> str:
        return {"deadline": "deadline", NO_DATA: SOURCE_UNREACHABLE}.get(self.source, "notice")


class StopWatch:
    """Says whether to stop. The first request wins and is reported once, through `report_to`."""

    def __init__(self, *, stop_within_s: float | None = None, may_end_process: bool = False):
        self._may_end_process = may_end_process
        self._late_after_s = max(0.0, (stop_within_s or grace.stop_within_s()) - grace.LAST_WORD_S)
        self._looks: list[Callable[[], str | None]] = []
        self._hear: Callable[[], str | None] = lambda: None
        self._deadline_at: float | None = None  # monotonic seconds
        self._moved: Callable[[], float] = lambda: -math.inf
        self._request: StopRequest | None = None
        self._requested_at = 0.0
        self._num_interrupts = 0
        self._report: Callable[[StopRequest], None] | None = None
        self._reporting = threading.Lock()
        self._end_process: Callable[[StopRequest], None] | None = None
        self._over = False
        self._wake_read, self._wake_write = -1, -1
        self._restore: list[Callable[[], object]] = []
        self._thread: threading.Thread | None = None

    # Watching

    @contextmanager
    def watching(self) -> Iterator[StopWatch]:
        """Take over SIGTERM and SIGINT inside the block, in the main thread."""
        self.start()
        try:
            yield self
        finally:
            self.close()

    def start(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        before = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._restore.append(lambda: signal.set_wakeup_fd(before))
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.signal(number, self._handle)
            self._restore.append(lambda number=number, handler=handler: signal.signal(number, handler))  # type: ignore[misc]
        self._thread = threading.Thread(target=self._watch, name="stop", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the signals back."""
        self.disarm()
        for restore in reversed(self._restore):
            restore()
        if self._thread is not None:
            self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def disarm(self) -> None:
        """The process has come to its end: requests change nothing any more."""
        self._over = True
        self._nudge()

    # What to watch, and who hears of it

    def set_deadline(self, at: float, moved: Callable[[], float] = lambda: -math.inf) -> None:
        """Both are monotonic seconds. `moved` is asked when `at` has come: it may give a later deadline."""
        self._deadline_at, self._moved = at, moved
        self._look()
        self._nudge()

    def look_for(self, look: Callable[[], str | None]) -> None:
        """Ask `look` twice a second, in the watching thread, for the source of a request."""
        self._looks.append(look)
        self._look()
        self._nudge()

    def look_for_file(self, path: Path) -> None:
        self.look_for(lambda: "file" if path.exists() else None)

    def hear(self, hear: Callable[[], str | None]) -> None:
        """Ask `hear` in every call of `requested` for the source of a request to another process of this run."""
        self._hear = hear

    def report_to(self, report: Callable[[StopRequest], None]) -> None:
        """`report` is called once, by whichever thread first sees that there is a request."""
        self._report = report
        self._nudge()

    def when_late(self, end_process: Callable[[StopRequest], None]) -> None:
        """`end_process` is called in the watching thread when the main thread has not come to its end in time.

        That is only done where it may end the process.
        """
        if self._may_end_process:
            self._end_process = end_process
            self._nudge()

    def notify(self, request: StopRequest) -> None:
        """Ask to stop, from any thread."""
        if self._request is None:
            self._requested_at = time.monotonic()
            self._request = request
            self._nudge()

    def requested(self) -> StopRequest | None:
        if self._request is None:
            source = self._hear()
            if source is not None:
                self.notify(StopRequest(source=source))
        if self._request is not None:
            self._report_once()
        return self._request

    # Inside

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._over:
            return
        if number == signal.SIGINT:
            self._num_interrupts += 1
            if self._num_interrupts > 1:
                raise KeyboardInterrupt  # a second Ctrl-C: somebody cannot wait
        self.notify(StopRequest(source=signal.Signals(number).name))

    def _watch(self) -> None:
        while not self._over:
            ready, _, _ = select.select([self._wake_read], [], [], self._wait_s())
            for number in os.read(self._wake_read, 512) if ready else b"":
                if number in (signal.SIGTERM, signal.SIGINT):
                    self.notify(StopRequest(source=signal.Signals(number).name))
            if self._request is None:
                self._look()
                continue
            self._report_once()
            late = time.monotonic() >= self._requested_at + self._late_after_s
            if late and self._end_process is not None and not self._over:
                self._end_process(self._request)
                return

    def _wait_s(self) -> float | None:
        """How long to sleep when nobody calls."""
        now = time.monotonic()
        if self._request is not None:
            late_at = self._requested_at + self._late_after_s
            return None if self._end_process is None else max(0.0, late_at - now)
        waits = [LOOK_EVERY_S] if self._looks else []
        if self._deadline_at is not None:
            waits.append(max(0.0, self._deadline_at - now))
        return min(waits, default=None)

    def _look(self) -> None:
        if self._request is not None:
            return
        if self._deadline_at is not None and time.monotonic() >= self._deadline_at:
            self._deadline_at = max(self._deadline_at, self._moved())
            if time.monotonic() >= self._deadline_at:
                self.notify(StopRequest(source="deadline"))
        for look in self._looks:
            source = look()
            if source is not None:
                self.notify(StopRequest(source=source))

    def _report_once(self) -> None:
        with self._reporting:
            report, request = self._report, self._request
            if report is not None and request is not None:
                self._report = None
                report(request)

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):  # a full pipe wakes the thread as well
            os.write(self._wake_write, _NUDGE)
