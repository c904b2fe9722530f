"""Checkpoints that are written while training goes on.

The loop stands still only while its tensors are copied, into buffers that the next save uses again; a thread then
writes the copy. On CUDA the copy is made on a stream of its own: forward and backward of the next step run beside it,
and only what changes the tensors, the optimizer, has to wait (`wait_until_copied`).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from trainer.checkpoint.checkpoint import Checkpointer, CheckpointError, SaveReport, Snapshot, Tensors, save_interval_s

WRITER_NICENESS = 10
FIRST_SAVE_AFTER_S = 60.0  # until a save has been measured


class SaveSchedule:
    """When a periodic save is due: every so many steps or seconds; with neither given, as a save's cost suggests.

    Times are monotonic seconds.
    """

    def __init__(self, *, every_steps: int | None, every_s: float | None, now: float):
        self._every_steps, self._every_s = every_steps, every_s
        self._interval_s = FIRST_SAVE_AFTER_S if every_s is None else every_s
        self._started_at = now

    @property
    def is_exact(self) -> bool:
        """Whether the steps that are saved were asked for; else a save may come later than it is due."""
        return self._every_steps is not None

    def is_due(self, step: int, saved_step: int | None, now: float) -> bool:
        """Whether after `step` it is time for a save."""
        if step in (0, saved_step):
            return False
        if self._every_steps is not None:
            return step % self._every_steps == 0
        return self._every_s != 0 and now >= self._started_at + self._interval_s

    def start(self, now: float) -> None:
        self._started_at = now

    def learn(self, report: SaveReport) -> None:
        """What a save cost says how often to have one."""
        if self._every_s is None:
            every_s = save_interval_s(stall_s=report.stall_s, write_s=report.seconds)
            self._interval_s = max(every_s, _at_least_s())


def _at_least_s() -> float:
    """PATRON_SAVE_AT_LEAST_S: what whoever pays for uploads counts with between two saves that nobody timed."""
    try:
        seconds = float(os.environ["PATRON_SAVE_AT_LEAST_S"])
    except (KeyError, ValueError):
        return 0.0
    return seconds if 0 <= seconds < math.inf else 0.0


class HostCopies:
    """Copies of tensors in host memory; the buffers are kept for the next time."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None
        self._sources: list[Tensor] = []  # kept alive until the device has read them

    def take(self, files: Mapping[str, Tensors]) -> dict[str, dict[str, Tensor]]:
        """Start copying. On a CPU the copy is made when this returns; on CUDA when `wait` returns."""
        copies = {
            file: {name: self._buffer((file, name), source) for name, source in tensors.items()}
            for file, tensors in files.items()
        }
        pairs = [(copies[file][name], source) for file, tensors in files.items() for name, source in tensors.items()]
        on_cuda = [source for _, source in pairs if source.is_cuda]
        with self._side_stream(on_cuda[0].device) if on_cuda else contextlib.nullcontext():
            for buffer, source in pairs:
                buffer.copy_(source.detach(), non_blocking=True)
            if on_cuda:
                self._sources = on_cuda
                self._copied = torch.cuda.Event()
                self._copied.record()
        return copies

    def wait(self) -> None:
        copied = self._copied
        if copied is not None:
            copied.synchronize()
        self._copied, self._sources = None, []

    def _buffer(self, key: tuple[str, str], source: Tensor) -> Tensor:
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != source.shape or buffer.dtype != source.dtype:
            buffer = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
            self._buffers[key] = buffer
        return buffer

    @contextlib.contextmanager
    def _side_stream(self, device: torch.device) -> Iterator[None]:
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            yield


class BackgroundSaver:
    """One write at a time. `on_saved` and, for a save that nobody waits for, `on_failed` are called in its thread.

    `saved_step` is the newest step that is safe, `last` the report of its save.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        *,
        on_saved: Callable[[int, SaveReport], None] = lambda _step, _report: None,
        on_failed: Callable[[int, CheckpointError], None] = lambda _step, _error: None,
    ):
        self._checkpointer, self._on_saved, self._on_failed = checkpointer, on_saved, on_failed
        self._copies = HostCopies()
        self._thread: threading.Thread | None = None
        self._stall_s = 0.0
        self._error: CheckpointError | None = None
        self.saved_step: int | None = None
        self.last: SaveReport | None = None

    @property
    def is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def save(self, snapshot: Snapshot) -> None:
        """Returns when the snapshot is safe. Raises CheckpointError."""
        self.start(snapshot, waited_for=True)
        error = self.wait()
        if error is not None:
            raise error

    def start(self, snapshot: Snapshot, *, waited_for: bool = False, began: float | None = None) -> None:
        """Copy the snapshot and write it in a thread. On CUDA call `wait_until_copied` before its tensors change.

        Waits for a write under way. `snapshot.state` must stay as it is. `began` is when training came to a stand for
        this save, in seconds of `time.perf_counter`, if not now.
        """
        self.wait()
        start = time.perf_counter() if began is None else began
        self._error = None
        try:
            copy = replace(snapshot, files=self._copies.take(snapshot.files))
        except (MemoryError, RuntimeError) as error:  # torch's allocators raise the latter
            self._fail(snapshot.step, error, waited_for)
            return
        self._stall_s = time.perf_counter() - start
        self._thread = threading.Thread(
            target=self._write, args=(copy, start, waited_for), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait_until_copied(self) -> None:
        start = time.perf_counter()
        self._copies.wait()
        self._stall_s += time.perf_counter() - start

    def wait(self, timeout_s: float | None = None) -> CheckpointError | None:
        """Until nothing is being written, or for so long; returns why the last save failed, if it did."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._error

    def _write(self, snapshot: Snapshot, start: float, waited_for: bool) -> None:
        if not waited_for:
            _lower_priority_of_this_thread()
        try:
            self._copies.wait()
            report = self._checkpointer.save(snapshot)
        except Exception as error:  # nobody is above this function: whatever it is, the save has failed
            self._fail(snapshot.step, error, waited_for)
            return
        report = replace(report, seconds=time.perf_counter() - start, stall_s=self._stall_s, waited_for=waited_for)
        self.saved_step, self.last = snapshot.step, report
        self._on_saved(snapshot.step, report)

    def _fail(self, step: int, error: Exception, waited_for: bool) -> None:
        failure = error if isinstance(error, CheckpointError) else CheckpointError(f"{type(error).__name__}: {error}")
        self._error = failure
        if not waited_for:
            self._on_failed(step, failure)


def _lower_priority_of_this_thread() -> None:
    """Training goes first where both want the same core. On Linux a niceness is a thread's own."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WRITER_NICENESS)
