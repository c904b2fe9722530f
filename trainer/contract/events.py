"""The record of a run: append-only segments of JSON lines in RUN_DIR/events, one event a line.

A segment being written is `<attempt>-<n>.jsonl.part`; it is renamed to `.jsonl` within two seconds and never changed
again, so a reader needs no locks and may copy whole files; old ones are merged. A thread does the writing: the training
loop never waits for a slow disk. While a disk refuses, events are kept in memory; when it takes them again, the record
says what happened. What is not known to be on the disk is written again, so that a reader drops what it has by
(attempt, seq).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trainer.contract.layout import EVENTS, OPEN_SUFFIX, Segment, in_order, segment_name, segment_of
from trainer.contract.merging import Here, Merging
from trainer.contract.shapes import count, object_of
from trainer.contract.words import printable

SEGMENT_OPEN_S = 2.0
RETRY_S = 1.0  # while the disk refuses
SAY_EVERY_S = 60.0  # that it refuses
CLOSE_WITHIN_S = 2.0  # for a disk that refuses at the end; it is part of the time that a stop may take
MAX_PENDING_LINES = 100_000  # kept while the disk refuses; beyond it the oldest go


class EventWriter:
    """Numbers events per attempt and goes on where the attempt's last process stopped."""

    def __init__(self, run_dir: Path, attempt: str, *, first_seq: int = 1, segment_open_s: float = SEGMENT_OPEN_S):
        """`first_seq` is for an attempt that went on elsewhere; numbers never go back behind what is here."""
        self.attempt = attempt
        self._folder = run_dir / EVENTS
        self._folder.mkdir(parents=True, exist_ok=True)
        close_leftover_segments(self._folder)
        self._merging = Merging(Here(run_dir), attempt)
        self._merging.after(0)  # before anybody here reads them
        self._next_segment = 1 + max(
            (each.last for each in _names(self._folder) if each.attempt == attempt), default=-1
        )
        self._next_seq = max(last_seq(attempt_segments(self._folder, attempt)) + 1, first_seq)
        self._segment_open_s = segment_open_s
        self._segment: _Segment | None = None
        self._refusal: _Refusal | None = None
        self._pending: list[bytes] = []
        self._num_lost = 0
        self._changed = threading.Condition()
        self._closing = False
        self._asked_to_close = self._closed = 0  # segments, on demand
        self._thread = threading.Thread(target=self._write_until_closed, name="events", daemon=True)
        self._thread.start()

    def emit(self, kind: str, *, step: int | None = None, **values: Any) -> None:
        with self._changed:
            event = {"seq": self._next_seq, "time": time.time(), "attempt": self.attempt, "kind": kind, "step": step}
            self._next_seq += 1
            line = json.dumps(_finite(event | values), allow_nan=False) + "\n"
            self._pending.append(line.encode())
            self._keep_bounded()
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
        end = math.inf
        while True:
            with self._changed:
                self._wait_for_work()
                lines, self._pending = self._pending, []
                closing, asked = self._closing, self._asked_to_close
                end = min(end, time.monotonic() + CLOSE_WITHIN_S) if closing else end
            try:
                self._write(lines)
                if closing or asked > self._closed or (self._segment and time.monotonic() >= self._segment.close_at):
                    self._close_segment()
            except OSError as error:
                self._put_off(lines, error)
            else:
                with self._changed:
                    self._closed = asked
                    self._changed.notify_all()
            if closing and (not self._pending or time.monotonic() >= end):
                if self._refusal is not None:
                    self._refusal.say(f"{len(self._pending):,} are lost")
                return

    def _wait_for_work(self) -> None:
        if self._refusal is not None:
            if self._closing:
                self._changed.wait(RETRY_S / 10)
            else:
                self._changed.wait_for(lambda: self._closing, RETRY_S)
        elif not self._pending and not self._closing and self._closed == self._asked_to_close:
            close_at = self._segment.close_at if self._segment else math.inf
            self._changed.wait(None if math.isinf(close_at) else max(0.0, close_at - time.monotonic()))

    def _write(self, lines: list[bytes]) -> None:
        """Takes what it has written from `lines`."""
        if not lines:
            self._refusal = None
            return
        if self._segment is None:
            path = self._folder / (segment_name(self.attempt, self._next_segment) + OPEN_SUFFIX)
            self._segment = _Segment(path, close_at=time.monotonic() + self._segment_open_s)
            self._next_segment += 1
        num_late = len(lines)
        self._segment.write(lines)
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            self.emit("warning", message=refusal.sentence(num_late, self._num_lost))

    def _close_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None
            if not self._closing:
                self._merging.after(1)

    def _put_off(self, lines: list[bytes], error: OSError) -> None:
        """The segment ends with what is in it; what is not known to be there waits for the next one."""
        segment, self._segment = self._segment, None
        if segment is not None:
            try:
                if not segment.close():
                    self._next_segment -= 1
            except OSError:
                segment.abandon()
                lines = segment.lines + lines
        self._refusal = self._refusal or _Refusal(str(error.strerror or error))
        with self._changed:
            self._pending[:0] = lines
            self._keep_bounded()
        self._refusal.say_now_and_then(len(self._pending))

    def _keep_bounded(self) -> None:
        excess = len(self._pending) - MAX_PENDING_LINES
        if excess > 0:
            del self._pending[:excess]
            self._num_lost += excess


class _Segment:
    """An open segment: whole lines, as far as the disk lets us."""

    def __init__(self, path: Path, *, close_at: float):
        self.path, self.close_at = path, close_at
        self.lines: list[bytes] = []  # written, and not known to be durable
        self._size = 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def write(self, lines: list[bytes]) -> None:
        """Takes what it has written from `lines`, in whole lines, also when it raises."""
        content = memoryview(b"".join(lines))
        written = 0
        try:
            while written < len(content):
                written += os.write(self._descriptor, content[written:])
        finally:
            num_whole = 0
            while num_whole < len(lines) and len(lines[num_whole]) <= written:
                written -= len(lines[num_whole])
                self._size += len(lines[num_whole])
                num_whole += 1
            self.lines += lines[:num_whole]
            del lines[:num_whole]
            if written:
                with contextlib.suppress(OSError):  # else a torn line stays at the end, which readers skip
                    os.ftruncate(self._descriptor, self._size)
                    os.lseek(self._descriptor, self._size, os.SEEK_SET)

    def close(self) -> bool:
        """Durable, and shown to readers; an empty one goes, and the answer is False."""
        if self.lines:
            os.fsync(self._descriptor)
            self.path.rename(self.path.with_suffix(""))
        else:
            self.path.unlink()
        self.abandon()
        return bool(self.lines)

    def abandon(self) -> None:
        """Leave the file as it is; whoever goes on with the run closes it."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):
                os.close(descriptor)


class _Refusal:
    """A time in which the disk takes nothing."""

    def __init__(self, why: str):
        self.why = why
        self._since = time.monotonic()
        self._say_at = -math.inf

    def sentence(self, num_late: int, num_lost: int) -> str:
        lasted_s = time.monotonic() - self._since
        return (
            f"the disk took no events for {lasted_s:.0f} s ({self.why}): {num_late:,} were kept in memory and written "
            f"late, {num_lost:,} are lost"
        )

    def say_now_and_then(self, num_pending: int) -> None:
        if time.monotonic() >= self._say_at:
            self._say_at = time.monotonic() + SAY_EVERY_S
            self.say(f"{num_pending:,} are kept and tried again")

    def say(self, what: str) -> None:
        """On stderr, which may be a file on the same disk."""
        with contextlib.suppress(OSError, ValueError):
            print(printable(f"events: {self.why}; {what}"), file=sys.stderr, flush=True)


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
    for part in files_in(folder, f"*.jsonl{OPEN_SUFFIX}"):
        with contextlib.suppress(OSError):  # the next start tries again
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
    found = (segment_of(path.name) for path in files_in(folder, "*.jsonl"))
    ours = in_order(segment for segment in found if segment and segment.attempt == attempt)
    return [(segment.last, folder / segment.name) for segment in ours]


def attempt_lines(folder: Path, attempt: str) -> list[bytes]:
    """Of these segments, while their writer goes on: what was merged meanwhile is listed again."""
    while True:
        try:
            contents = [path.read_bytes() for _, path in attempt_segments(folder, attempt)]
        except FileNotFoundError:
            continue
        return [line for content in contents for line in content.splitlines()]


def files_in(folder: Path, pattern: str) -> Iterator[Path]:
    """What has the name of a file and is none, a folder for instance, is left out."""
    return (path for path in folder.glob(pattern) if path.is_file())


def free_attempt_name(run_dir: Path, taken: Iterable[str] = ()) -> str:
    """manual-1, or the next that has no events yet, here or among those `taken`."""
    names = {*taken, *(segment.attempt for segment in _names(run_dir / EVENTS))}
    number = 1
    while f"manual-{number}" in names:
        number += 1
    return f"manual-{number}"


def _names(folder: Path) -> Iterator[Segment]:
    """Every segment, closed or not, and whatever else has such a name."""
    segments = (segment_of(path.name.removesuffix(OPEN_SUFFIX)) for path in folder.glob("*"))
    return (segment for segment in segments if segment)


def last_seq(segments: list[tuple[int, Path]]) -> int:
    """The number of the newest event in closed segments; 0 when there is none."""
    for _, path in reversed(segments):
        numbers = [seq for line in path.read_bytes().splitlines() if (seq := seq_of(line)) is not None]
        if numbers:
            return max(numbers)
    return 0


def seq_of(line: bytes) -> int | None:
    """The number of the event on a line; None where a full disk or a crash has torn it."""
    event = object_of(line)
    return count(event.get("seq")) if event else None


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity; they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
