"""One workload, watched over to its end: what the runner of this machine and the guard of a rented one share.

It is told to stop once, by whatever asks first; it is killed with its group after the shortest grace that was given;
what it left behind is killed at its end. How long it neither printed nor recorded anything is measured here, by a clock
that nobody sets and that stands still while the machine sleeps.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from patron_core.executors import processes
from patron_core.executors.deadline import Deadline
from patron_core.rundir.rundir import RunDir
from trainer.contract.exits import EXIT_SIGKILL
from trainer.contract.ranks import LastWord, is_torchrun

_LONGEST_LOOK_S = 10.0  # between two looks; more means that the watcher itself was stopped


class Silence:
    """`state` changes with whatever the workload prints or records."""

    def __init__(self, state: Callable[[], object]):
        self._state, self._last = state, state()
        self._looked_at = time.monotonic()
        self.seconds = self.longest_s = 0.0

    def look(self) -> dict[str, float]:
        now = time.monotonic()
        self.seconds += min(now - self._looked_at, _LONGEST_LOOK_S)
        self._looked_at = now
        state = self._state()
        if state != self._last:
            self.longest_s = max(self.longest_s, self.seconds)
            self.seconds, self._last = 0.0, state
        return {"silent_s": self.seconds, "longest_silence_s": self.longest_s}


class Ending:
    """How a workload ended: by its exit code, and where torchrun started it by what its ranks had to say."""

    def __init__(self, command: Sequence[str], run_dir: str, key: str):
        self._run_dir = run_dir
        self._last_word = LastWord(key, self._result()) if is_torchrun(command) else None

    def read(self, code: int) -> tuple[int | None, int | None]:
        """Exit code and signal, one of them None, of what `Watcher.watch` gave."""
        if self._last_word is not None:
            code = self._last_word.exit_code(code, self._result())
            code = -signal.SIGKILL if code == EXIT_SIGKILL else code
        return (code, None) if code >= 0 else (None, -code)

    def _result(self) -> Mapping[str, Any] | None:
        with suppress(OSError):  # a bucket that does not answer
            return RunDir(self._run_dir).result()
        return None


class Watcher:
    """`evidence` is what it knows of the end so far. Its clock starts when it is made."""

    def __init__(self, key: str, deadline: Deadline, *, used_s: float, grace_s: float, silence: Silence):
        self.evidence: dict[str, Any] = {}
        self.told_by_machine = False  # a SIGTERM that is not the executor's: somebody takes this machine away
        self._key, self._deadline, self._used_s, self._grace_s = key, deadline, used_s, grace_s
        self._silence = silence
        self.started_monotonic = time.monotonic()
        self._kill_at = float("inf")  # monotonic
        self._told_to_stop = False
        self.oom_kills_before = processes.oom_kills()
        self._wake_r, self._wake_w = os.pipe()

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_monotonic

    def listen(self, *wakes: int) -> None:
        """Take the signals over: those that end this machine, the workload's end, and `wakes`, which ask for a look."""
        os.set_blocking(self._wake_w, False)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._told)
        for wake in (signal.SIGCHLD, *wakes):
            signal.signal(wake, lambda *_: None)

    def _told(self, *_: object) -> None:
        self.told_by_machine = True

    def is_over(self) -> bool:
        """Whether the deadline of all starts together is."""
        return self._deadline.is_over(self._used_s + self.elapsed_s())

    def watch(
        self,
        workload: subprocess.Popen[bytes],
        *,
        wish: Callable[[], float | None],
        heartbeat: Callable[[], None],
        look_s: float,
        heartbeat_s: float,
    ) -> int:
        """Until the workload is gone, with everything that it left behind; its exit code, or minus the signal.

        `wish` is whether it shall stop: the seconds until that is done by force. It is asked every `look_s` seconds,
        and when a signal wakes us. An OSError is passed over.
        """
        kill_after_s: float | None = None
        next_look = next_heartbeat = 0.0
        while True:
            pid, status, usage = os.wait4(workload.pid, os.WNOHANG)
            if pid:
                break
            now = time.monotonic()
            if now >= next_look:
                with suppress(OSError):
                    kill_after_s = wish()
                next_look = now + look_s
            self._obey(workload.pid, kill_after_s)
            if now >= next_heartbeat:
                self.evidence |= self._silence.look() | {"memory": processes.memory_reading(workload.pid)}
                with suppress(OSError):  # a full disk, or a bucket that does not answer, must not end the watch
                    heartbeat()
                next_heartbeat = now + heartbeat_s
            if self._sleep_until(min(next_look, next_heartbeat)):
                next_look = 0.0
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(workload.pid, signal.SIGKILL)
        for _ in range(100):  # those that left the group, too: nothing may burn on
            if not processes.kill_processes_of(self._key):
                break
            time.sleep(0.01)
        self.evidence["max_rss_bytes"] = usage.ru_maxrss * processes.MAXRSS_UNIT_BYTES
        workload.returncode = os.waitstatus_to_exitcode(status)
        return workload.returncode

    def count_oom_kills(self) -> int | None:
        """The kernel's counter now; how far it rose since the start goes into the evidence."""
        after = processes.oom_kills()
        if self.oom_kills_before is not None and after is not None:
            self.evidence["oom_kills"] = after - self.oom_kills_before
        return after

    def _sleep_until(self, wake_at: float) -> bool:
        """Whether a signal came before. The deadline and the kill are not slept over."""
        now = time.monotonic()
        due = [self._kill_at, self.started_monotonic + self._deadline.seconds - self._used_s]
        wake_at = min([wake_at, *(at for at in due if at > now)])
        if select.select([self._wake_r], [], [], max(0.01, wake_at - now))[0]:
            os.read(self._wake_r, 4096)
            return True
        return False

    def _obey(self, pid: int, kill_after_s: float | None) -> None:
        now = time.monotonic()
        reasons = {
            "reclaim_notice": self.told_by_machine,
            "cancelled": kill_after_s is not None,
            "deadline_hit": self.is_over(),
        }
        new = [reason for reason, holds in reasons.items() if holds and reason not in self.evidence]
        self.evidence.update(dict.fromkeys(new, True))
        if "deadline_hit" in new:
            self._kill_at = min(self._kill_at, now + self._grace_s)
        if kill_after_s is not None and kill_after_s < self.evidence.get("cancel_grace_s", float("inf")):
            self.evidence["cancel_grace_s"] = kill_after_s
            self._kill_at = min(self._kill_at, now + kill_after_s)
        if new and not self._told_to_stop:
            self._told_to_stop = True  # once: a second SIGTERM means "at once" to many programs
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if now >= self._kill_at:
            self.evidence["killed"] = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def changed_at(*paths: Path) -> tuple[int, ...]:
    """When each was last changed; 0 for what is not there. A folder changes with the names in it."""
    found = []
    for path in paths:
        try:
            found.append(path.stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return tuple(found)
