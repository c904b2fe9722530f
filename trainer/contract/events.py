"""The record of a run: append-only segments of JSON lines in RUN_DIR/events, one event a line.

A segment being written is `<attempt>-<n>.jsonl.part`; it is renamed to `.jsonl` within two seconds and never touched
again, so a reader needs no locks and may copy whole files. A thread does the writing: the training loop never waits for
a slow disk, and a disk that is full costs events, not the run.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

SEGMENT_OPEN_S = 2.0
MAX_PENDING_LINES = 100_000  # kept while the disk refuses; beyond it the oldest go
SEGMENT_NAME = re.compile(r"(?P<attempt>.+)-(?P<number>\d{6,})\.jsonl(\.part)?")


class EventWriter:
    """Numbers events per attempt and goes on where the attempt's last process stopped."""

    def __init__(self, run_dir: Path, attempt: str, *, first_seq: int = 1, segment_open_s: float = SEGMENT_OPEN_S):
        """`first_seq` is for an attempt that went on elsewhere; numbers never go back behind what is here."""
        self.attempt = attempt
        self._folder = run_dir / "events"
        self._folder.mkdir(parents=True, exist_ok=True)
        close_leftover_segments(self._folder)
        segments = attempt_segments(self._folder, attempt)
        self._next_segment = segments[-1][0] + 1 if segments else 0
        self._next_seq = max(last_seq(segments) + 1, first_seq)
        self._segment_open_s = segment_open_s
        self._file: TextIO | None = None
        self._close_at = math.inf
        self._pending: list[str] = []
        self._changed = threading.Condition()
        self._closing = False
        self._asked_to_close = self._closed = 0  # segments, on demand
        self._thread = threading.Thread(target=self._write_until_closed, name="events", daemon=True)
        self._thread.start()

    def emit(self, kind: str, *, step: int | None = None, **values: Any) -> None:
        with self._changed:
            event = {"seq": self._next_seq, "time": time.time(), "attempt": self.attempt, "kind": kind, "step": step}
            self._next_seq += 1
            self._pending.append(json.dumps(_finite(event | values), allow_nan=False) + "\n")
            del self._pending[:-MAX_PENDING_LINES]
            self._changed.notify_all()

    def close_segment(self, timeout_s: float) -> bool:
        """Have a reader see all that was emitted so far; whether that was done in time."""
        with self._changed:
            self._asked_to_close += 1
            asked = self._asked_to_close
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._closed >= asked, timeout_s)

    def close(self) -> None:
        """Write what is left and close the last segment."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _write_until_closed(self) -> None:
        while True:
            with self._changed:
                if not self._pending and not self._closing and self._closed == self._asked_to_close:
                    wait_s = self._close_at - time.monotonic()
                    self._changed.wait(None if math.isinf(wait_s) else max(0.0, wait_s))
                lines, self._pending = self._pending, []
                closing, asked = self._closing, self._asked_to_close
            try:
                self._write(lines)
                if closing or asked > self._closed or time.monotonic() >= self._close_at:
                    self._close_segment()
                if asked > self._closed:
                    with self._changed:
                        self._closed = asked
                        self._changed.notify_all()
            except OSError as error:
                print(f"events: {error}; they are kept and tried again", file=sys.stderr)
                with self._changed:
                    self._pending = lines + self._pending
                    if not closing:
                        self._changed.wait(1.0)
            if closing:
                return

    def _write(self, lines: list[str]) -> None:
        if not lines:
            return
        if self._file is None:
            name = f"{self.attempt}-{self._next_segment:06d}.jsonl.part"
            self._file = (self._folder / name).open("a", encoding="utf-8")
            self._close_at = time.monotonic() + self._segment_open_s
        self._file.writelines(lines)
        self._file.flush()

    def _close_segment(self) -> None:
        if self._file is None:
            return
        os.fsync(self._file.fileno())
        self._file.close()
        part = Path(self._file.name)
        part.rename(part.with_suffix(""))
        self._file, self._close_at = None, math.inf
        self._next_segment += 1


class NoEvents(EventWriter):
    """For the processes of a run that leave the record to another."""

    def __init__(self) -> None:
        self.attempt = ""

    def emit(self, kind: str, *, step: int | None = None, **values: Any) -> None:
        pass

    def close(self) -> None:
        pass


def close_leftover_segments(folder: Path) -> None:
    """Close what a killed writer left open, cut to whole lines. The caller holds the run's lock: no writer is alive."""
    for part in folder.glob("*.jsonl.part"):
        content = part.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            part.unlink()
            continue
        if len(whole) < len(content):
            os.truncate(part, len(whole))
        part.rename(part.with_suffix(""))


def attempt_segments(folder: Path, attempt: str) -> list[tuple[int, Path]]:
    """Closed segments of one attempt in order."""
    matches = ((SEGMENT_NAME.fullmatch(path.name), path) for path in folder.glob("*.jsonl"))
    return sorted((int(m["number"]), path) for m, path in matches if m and m["attempt"] == attempt)


def free_attempt_name(run_dir: Path, taken: Iterable[str] = ()) -> str:
    """manual-1, or the next that has no events yet, here or among those `taken`."""
    here = (SEGMENT_NAME.fullmatch(path.name) for path in (run_dir / "events").glob("*"))
    names = {*taken, *(match["attempt"] for match in here if match)}
    number = 1
    while f"manual-{number}" in names:
        number += 1
    return f"manual-{number}"


def last_seq(segments: list[tuple[int, Path]]) -> int:
    """The number of the newest event in closed segments; 0 when there is none."""
    for _, path in reversed(segments):
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines:
            return int(json.loads(lines[-1])["seq"])
    return 0


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity; they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
