"""The command itself: started, listened to, told to stop, and judged by how it ended."""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from trainer.contract import grace
from trainer.contract.events import EventWriter
from trainer.contract.exits import (
    EXIT_DIVERGED,
    EXIT_DONE,
    EXIT_ERROR,
    EXIT_OUT_OF_MEMORY,
    EXIT_RESUME,
    EXIT_SIGKILL,
    UserError,
)
from trainer.contract.files import cache_folder
from trainer.contract.foreign import ForeignSpec
from trainer.contract.words import printable
from trainer.foreign import surroundings
from trainer.foreign.logs import Log, plain
from trainer.foreign.record import Record
from trainer.foreign.saved import Saved
from trainer.foreign.surroundings import Surroundings
from trainer.foreign.tracked import TrackedRun
from trainer.foreign.unpack import WORK
from trainer.preemption.stop import StopRequest, StopWatch

LOOK_EVERY_S = 0.25
TAKE_EVERY_S = 2.0  # at checkpoints
LAST_LINES_S = 2.0  # for what it printed before it ended
MAX_LINE_BYTES = 8192
_ITS_OWN = {EXIT_RESUME, EXIT_OUT_OF_MEMORY, EXIT_DIVERGED}  # it may know the contract


class Command:
    def __init__(
        self,
        spec: ForeignSpec,
        run_dir: Path,
        found: Surroundings,
        events: EventWriter,
        *,
        started_at: float,
        burst: int | None,
    ):
        self._spec, self._found, self._started_at = spec, found, started_at
        self._work = run_dir / WORK
        self._container = surroundings.container_name(run_dir)
        self._burst = None if burst is None else spec.burst_value(burst)
        self._log = Log(spec.log)
        self._tracked = TrackedRun(run_dir, spec.name)
        self._record = Record(spec, run_dir, events, self._tracked, self._log, is_burst=burst is not None)
        self._saved = Saved(spec.checkpoints, run_dir, self._work) if spec.checkpoints else None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._told_at: float | None = None

    def run(self, stop: StopWatch) -> dict[str, Any]:
        """To its end, whoever brings it about; what result.json says of it."""
        step = self._saved.put_back() if self._saved else None
        self._record.begin(step, knows_resume=self._saved is not None)
        child = self._start(step)
        assert child.stdout is not None
        reader = threading.Thread(target=self._listen, args=(child.stdout,), name="lines", daemon=True)
        reader.start()
        take_at = 0.0
        while True:
            code = child.poll()
            self._hear()
            if code is not None:
                break
            request = stop.requested()
            if request is not None:
                self._tell(child)
            if self._saved and time.monotonic() >= take_at:
                self._record.checkpoints(self._saved.take())
                take_at = time.monotonic() + TAKE_EVERY_S
            time.sleep(LOOK_EVERY_S)
        ended_at = time.time()
        reader.join(LAST_LINES_S)
        self._hear(is_end=True)
        if self._saved:
            self._record.checkpoints(self._saved.take(quiet_s=0.0 if code == 0 else 1.0))
        self._record.close_open()
        return self._judge(code, stop.requested(), ended_at)

    def _start(self, step: int | None) -> subprocess.Popen[bytes]:
        places = {"work": str(self._work), "cache": str(cache_folder() / "foreign" / self._spec.cache_name())}
        Path(places["cache"]).mkdir(parents=True, exist_ok=True)
        resume = self._saved.words(step) if self._saved else ""
        line = self._spec.line(places=places, burst=self._burst, resume=resume)
        own = {name: _filled(value, places) for name, value in self._spec.variables.items()}
        variables = {"PYTHONUNBUFFERED": "1", **own, **self._tracked.variables()}
        surroundings.remove_container(self._container, self._found)
        print(printable(f"foreign: {line}"), flush=True)
        try:
            return subprocess.Popen(
                self._found.argv(line, work=self._work, variables=variables, name=self._container),
                cwd=self._work,
                env=self._found.environ(variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,  # to be told as a whole: a shell does not pass a signal on
            )
        except OSError as error:
            raise UserError(f"the command cannot be started: {error}") from error

    def _listen(self, output: IO[bytes]) -> None:
        """Pass on what it prints, line by line, and keep it for `_hear`. A bar that is drawn over ends lines, too."""
        rest = b""
        while chunk := os.read(output.fileno(), 65536):
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._pass_on(line)
        if rest:
            self._pass_on(rest)

    def _pass_on(self, line: bytes) -> None:
        text = plain(line[:MAX_LINE_BYTES].decode(errors="replace"))
        if text.strip():
            print(printable(text), flush=True)
            self._lines.put(printable(text))

    def _hear(self, *, is_end: bool = False) -> None:
        while not self._lines.empty():
            self._log.hear(self._lines.get())
        self._record.take(is_end=is_end)

    def _tell(self, child: subprocess.Popen[bytes]) -> None:
        """SIGTERM to all of it, once; SIGKILL when the time to stop in is nearly over."""
        now = time.monotonic()
        if self._told_at is None:
            self._told_at = now
            _signal(child, signal.SIGTERM)
        elif now - self._told_at > grace.stop_within_s() - grace.LAST_WORD_S - 1.0:
            surroundings.remove_container(self._container, self._found)
            _signal(child, signal.SIGKILL)

    def _judge(self, code: int, request: StopRequest | None, ended_at: float) -> dict[str, Any]:
        figures = self._record.figures() | {
            "wall_s": ended_at - self._started_at,
            "host_peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _MAXRSS_UNIT_BYTES,
        }
        if code == EXIT_DONE and (request is None or self._record.is_at_its_end()):
            if self._burst is None:
                message = "the command came to its end"
                return {"exit_code": EXIT_DONE, "reason": "completed", "message": message} | figures
            burst = self._record.burst(self._burst, started_at=self._started_at, ended_at=ended_at)
            message = f"burst with {self._spec.steps_parameter}={self._burst}"
            return {"exit_code": EXIT_DONE, "reason": "completed", "message": message} | figures | {"burst": burst}
        if request is not None:
            message = f"stopped by {request.source} after step {figures['step'] or 0}; {self._what_is_left()}"
            return {"exit_code": EXIT_RESUME, "reason": request.reason, "message": message} | figures
        judged = self._log.exit_code or (code if code in _ITS_OWN else EXIT_ERROR)
        if code in (-signal.SIGKILL, EXIT_SIGKILL):
            judged = EXIT_SIGKILL
        reason = {EXIT_OUT_OF_MEMORY: "cuda_oom", EXIT_DIVERGED: "diverged", EXIT_SIGKILL: "lost"}
        message = f"the command ended with {_words(code)}; its last line: {self._log.last_line or 'none'}"
        return {"exit_code": judged, "reason": reason.get(judged, "user_error"), "message": message} | figures

    def _what_is_left(self) -> str:
        saved = self._record.checkpoint_step
        if saved is not None:
            return f"with its own checkpoint of step {saved}; start again to resume"
        if self._saved is not None:
            return "it has saved no checkpoint yet"
        return "started again it finds its files as it left them, and goes on if its code does so"


_MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _filled(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        text = text.replace("{" + name + "}", place)
    return text


def _words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
