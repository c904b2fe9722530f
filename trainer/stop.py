"""Requests to stop: SIGTERM, SIGINT, a notice file, a cloud's reclaim notice, a deadline.

Signal handlers only set a flag; the loop asks between micro-batches.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

NOTICE_FILE_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class StopRequest:
    source: str  # SIGTERM, SIGINT, file, deadline, or a cloud and what it said
    ends_at: float | None = None  # when the machine goes, in Unix seconds, where the notice says so

    @property
    def reason(self) -> str:
        return "deadline" if self.source == "deadline" else "notice"


class StopWatch:
    """Says whether to stop. The first request wins and is reported once through `on_request`."""

    def __init__(
        self,
        *,
        deadline_at: float | None = None,
        notice_file: Path | None = None,
        heard: Callable[[], str | None] = lambda: None,
        on_request: Callable[[StopRequest], None] | None = None,
    ):
        self._deadline_at = deadline_at  # monotonic seconds
        self._notice_file = notice_file
        self._heard = heard  # the source of a request that came to another process of this run
        self._on_request = on_request
        self._signal: str | None = None
        self._notice: StopRequest | None = None
        self._request: StopRequest | None = None
        self._next_look_at = 0.0

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Take over SIGTERM and SIGINT inside the block."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C: somebody cannot wait for the micro-batch
        self._signal = signal.Signals(number).name

    def notify(self, request: StopRequest) -> None:
        """Ask from another thread."""
        self._notice = request

    def requested(self) -> StopRequest | None:
        if self._request is None:
            source = self._source()
            request = StopRequest(source=source) if source is not None else self._notice
            if request is not None:
                self._request = request
                if self._on_request is not None:
                    self._on_request(request)
        return self._request

    def _source(self) -> str | None:
        if self._signal is not None:
            return self._signal
        now = time.monotonic()
        if self._deadline_at is not None and now >= self._deadline_at:
            return "deadline"
        if self._notice_file is not None and now >= self._next_look_at:
            self._next_look_at = now + NOTICE_FILE_EVERY_S
            if self._notice_file.exists():
                return "file"
        return self._heard()
