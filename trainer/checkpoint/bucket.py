"""A run directory in a bucket: training works in a local folder, threads bring everything up, nobody waits for them.

At the end there is little time: a machine that is reclaimed is gone 30 s after the notice on Google Cloud, and saving
takes up to 10 of them. So events go up at once, beside the checkpoint; the upload under way is finished first, since an
older checkpoint that is whole is worth more than two halves; result.json, last, says with `durable_step` which is up.

Two machines may work on one run for a moment, when one is reclaimed while the next one starts. The later one writes its
name into .writer.json; the earlier one looks there before it writes, stops and ends itself. What slips through in
between cannot hurt: event objects are created, never replaced, and their numbers leave a gap; and a checkpoint whose
files come from two machines does not match its manifest, so that the one before it is taken.

A killed multipart upload leaves parts behind that cost money and are not seen: give the bucket a rule that removes them
(AbortIncompleteMultipartUpload) after a day.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from trainer.checkpoint.restore import restore
from trainer.checkpoint.uploads import Checkpoints, Records
from trainer.contract import grace
from trainer.contract.events import EventWriter
from trainer.contract.exits import EXIT_DONE, EXIT_RESUME, BadSpec, UserError
from trainer.contract.files import cache_folder, read_json
from trainer.contract.layout import RESULT, scratch_name
from trainer.contract.remote import Remote, RemoteError
from trainer.contract.shapes import object_of
from trainer.runtime.console import say

WRITER = ".writer.json"
RECORDS_EVERY_S = 5.0
CHECKPOINTS_EVERY_S = 1.0  # how soon a new one is noticed; only local files are looked at
MAX_BACK_OFF_S = 30.0
CLOSE_SEGMENT_S = 5.0  # a disk that takes longer costs a part of the curve
FLUSH_S = {EXIT_DONE: 600.0, EXIT_RESUME: grace.UPLOAD_S}  # a run that is done is done when it is up there


class TakenOver(Exception):
    """Another machine writes this run now."""


def local_folder(url: str) -> Path:
    """Where this machine works on the run: the same folder each time, so that a restart finds what it had."""
    base = Path(os.environ.get("PATRON_SCRATCH") or cache_folder() / "runs")
    return base / scratch_name(url)


class Bucket:
    """One process's hold on the run under `url`, worked on in `folder`."""

    def __init__(self, url: str, folder: Path, attempt: str | None):
        """Claims the run and brings down what is needed. Raises BadSpec where the bucket cannot be used at all."""
        self._folder = folder
        self._token = uuid.uuid4().hex
        try:
            self._remote = remote = Remote(url)
            writer = {"token": self._token, "host": os.uname().nodename, "pid": os.getpid(), "time": time.time()}
            remote.put(WRITER, json.dumps(writer).encode())
            self.restored = restore(remote, folder, attempt)
        except RemoteError as error:
            raise (BadSpec if error.wrong else UserError)(f"run directory: {error}") from error
        self._checkpoints = Checkpoints(
            remote,
            folder,
            self.restored,
            check_writer=self._check_writer,
            push_events=self._push_events,
            on_durable=self._report_durable,
        )
        self._records: Records | None = None
        self._taken_over = False
        self._changed = threading.Condition()
        self._asked = 0  # syncs asked for; a thread is done with one after a good round that began later
        self._done = {"records": 0, "checkpoints": 0}
        self._closing = False
        self._threads: list[threading.Thread] = []

    def start(self, attempt: str, events: EventWriter | None, say: Callable[[str], None] | None) -> None:
        """Begin to upload, and to tell of it."""
        self._emit = events.emit if events else _emit_nothing
        self._say = say or _say_alone
        self._events = events
        for code, message in self.restored.warnings:
            self._emit("warning", code=code, message=message)
        if self.restored.step is not None:
            self._emit("phase", step=self.restored.step, name="download", seconds=self.restored.seconds)
        self._records = Records(self._remote, self._folder, self.restored, attempt)
        for name, work, every_s in (
            ("records", self._push_records, RECORDS_EVERY_S),
            ("checkpoints", self._checkpoints.push, CHECKPOINTS_EVERY_S),
        ):
            thread = threading.Thread(target=self._repeat, args=(name, work, every_s), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def flush(self, result: dict[str, Any]) -> dict[str, Any]:
        """Bring everything up that is closed and saved, within the time there is. The result, with what is durable."""
        whole = self._sync(FLUSH_S.get(result["exit_code"], grace.UPLOAD_AFTER_FAILURE_S))
        step, durable_step = result.get("step"), self._checkpoints.durable_step
        result = result | {"durable_step": durable_step}
        if not whole or (result["exit_code"] in FLUSH_S and step and durable_step != step):
            newest = "none" if durable_step is None else f"the one of step {durable_step}"
            why = "another machine has the run" if self._taken_over else "not everything went up in time"
            # whoever said that there is one spoke of this machine, which may be gone in a moment
            said = result["message"].replace("with a checkpoint of it", "with a checkpoint of it on this machine only")
            result["message"] = f"{said}; {why}; the newest whole checkpoint in {self._remote.url}: {newest}"
            if result["exit_code"] == EXIT_DONE and durable_step != step:
                result |= {"exit_code": EXIT_RESUME, "reason": "notice"}  # started again it brings up the rest
        self._emit, self._say, self._events = _emit_nothing, _say_alone, None
        return result

    def bring_up_the_rest(self) -> bool:
        """For a run that is finished here: whether all of it is up there in the end."""
        self.start(str((read_json(self._folder / RESULT) or {}).get("attempt", "")), None, None)
        assert self._records is not None
        self._records.result_due = True
        try:
            return self._sync(FLUSH_S[EXIT_DONE])
        finally:
            self.close()

    def close(self) -> None:
        """The last events, the log and result.json. The events must be closed."""
        if self._records is not None:
            self._records.result_due = True
            self._sync(grace.LAST_UPLOAD_S)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=0.2)

    def _repeat(self, name: str, work: Callable[[], None], every_s: float) -> None:
        """Rounds of one thread, until the end. One that fails is tried again after a while, twice as long each time."""
        failures, asked = 0, 0
        while True:
            with self._changed:
                asked = self._asked
            try:
                work()
            except TakenOver:
                return
            except OSError as error:
                failures += 1
                if failures == 1:
                    self._warn("upload_failed", f"{error}. Training goes on, and the upload is tried again")
            else:
                if failures:
                    self._say(f"{self._remote.url} answers again")
                failures = 0
                with self._changed:
                    self._done[name] = asked
                    self._changed.notify_all()
            wait_s = min(MAX_BACK_OFF_S, 2.0 ** (failures - 1)) if failures else every_s
            if not self._rest(wait_s, asked, in_a_hurry=failures > 0 and asked > self._done[name]):
                return

    def _rest(self, wait_s: float, asked: int, *, in_a_hurry: bool) -> bool:
        """Wait for the next round, or until somebody asks for one. False when it is time to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._asked > asked, timeout=min(wait_s, 1.0) if in_a_hurry else wait_s
            )
            return not self._closing

    def _sync(self, limit_s: float) -> bool:
        """Whether both threads had a good round from start to end, within the limit."""
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
        deadline = [time.monotonic() + limit_s]
        with _shortened_by_signals(deadline), self._changed:
            while not self._taken_over and min(self._done.values()) < asked:
                left_s = deadline[0] - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(min(left_s, 0.5))  # a signal's handler runs between two waits
            return not self._taken_over

    def _push_records(self) -> None:
        assert self._records is not None
        self._check_writer()
        self._records.push()

    def _push_events(self) -> None:
        assert self._records is not None
        if self._events is not None:
            self._events.close_segment(CLOSE_SEGMENT_S)
        self._records.push_events()

    def _check_writer(self) -> None:
        """Raises TakenOver, and asks this process to stop, when a later machine has the run."""
        writer = object_of(self._remote.get(WRITER)) or {}
        if writer.get("token") in (None, self._token):
            return
        with self._changed:
            first, self._taken_over = not self._taken_over, True
            self._changed.notify_all()
        if first:
            self._warn("taken_over", f"{writer.get('host')} trains this run now; this process stops")
            os.kill(os.getpid(), signal.SIGTERM)
        raise TakenOver

    def _report_durable(self, step: int, num_bytes: int, seconds: float) -> None:
        self._emit("uploaded", step=step, bytes=num_bytes, seconds=seconds)
        self._say(f"the checkpoint of step {step} is up: {num_bytes:,} bytes in {seconds:.1f} s")

    def _warn(self, code: str, message: str) -> None:
        self._emit("warning", code=code, message=message)
        self._say(f"warning: {message}")


def leave(exit_code: int) -> None:
    """End the process now when an upload that was given up is still under way: it must not hold the machine."""
    if any(thread.name in ("records", "checkpoints") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


@contextmanager
def _shortened_by_signals(deadline: list[float]) -> Iterator[None]:
    """SIGTERM or Ctrl-C while we wait: the machine goes, so what is not up soon will not be."""

    def hurry(_number: int, _frame: FrameType | None) -> None:
        deadline[0] = min(deadline[0], time.monotonic() + grace.UPLOAD_S)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, hurry) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _emit_nothing(_kind: str, **_: Any) -> None:
    pass


def _say_alone(text: str) -> None:
    say(f"trainer: {text}")
