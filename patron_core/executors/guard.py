"""Runs one workload on a machine that somebody else made and may take away, such as SkyPilot's.

    python -m patron_core.executors.guard --key KEY --run-dir RUN_DIR [--deadline-s S] [--grace-s S] -- COMMAND ...

It keeps the deadline over all starts of the job together, counted from the boot of a machine that was made for one,
since that is what is paid for; passes requests to stop on, writes down what happened to
RUN_DIR/machines (records.py), and tells by its exit code whether to start the job again:

    75   start it again: it was told to go and saved a checkpoint, or died of nothing that is known
    79   do not: it was asked to stop, or its deadline is over; a checkpoint is there. Also where another job of
         SkyPilot was the first to start under this key, and this one is a second launch after a crash
    80   do not: killed for memory, by force after its grace, or dead without a new checkpoint too many times in a row
    else the workload's own

It writes to its run directory and nowhere else, and needs no server: the guard holds even if the core is gone.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from patron_core.executors import processes
from patron_core.executors.base import is_key
from patron_core.executors.deadline import Deadline
from patron_core.executors.records import Records
from patron_core.lifecycle.decide import FAILURE_BUDGET
from patron_core.rundir.rundir import RunDir
from trainer.contract.exits import EXIT_KILLED, EXIT_NOT_STARTED, EXIT_RESUME, EXIT_STOPPED
from trainer.contract.grace import kill_after_s

HEARTBEAT_S = 2.0
LOOK_S = 0.5  # between looks for a request to stop
TAIL_LINES = 60
_BY_DEADLINE_S = 1.0  # a workload that knows the deadline ends by itself, a moment before we would say so


class Guard:
    def __init__(self, *, key: str, run_dir: str, command: Sequence[str], deadline_s: float, grace_s: float):
        self.key, self.run_dir, self.command = key, run_dir, command
        self.grace_s = grace_s
        self.records = Records(run_dir, key)
        self.before = self.records.starts()
        self.number = len(self.before) + 1
        self.job = os.environ.get("SKYPILOT_MANAGED_JOB_ID")  # the same on every machine that it is given
        self.started_at, self.started_monotonic = time.time(), time.monotonic()
        self.setup_s = self._paid_before()
        # on machines that it had before, and in the set-up of this one
        self.used_s = self.setup_s + sum(float(record.get("elapsed_s") or 0.0) for record in self.before)
        self.deadline = Deadline(run_dir, key, deadline_s)
        self.oom_kills_before = processes.oom_kills()
        self.evidence: dict[str, Any] = {}
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.kill_at = float("inf")  # monotonic
        self.told_to_stop = self.told_by_machine = False
        self.wake_r, self.wake_w = os.pipe()

    def run(self) -> int:
        self._listen()
        owner = self.before[0].get("job") if self.before else self.job
        if owner != self.job or not self.records.claim_start(self.number, self._record(ended=False)):
            print(f"guard: job {owner} of SkyPilot owns {self.key}; this one, {self.job}, does nothing", flush=True)
            return EXIT_STOPPED
        if self.deadline.is_over(self.used_s):
            self.evidence |= {"deadline_hit": True, "stopped_before_start": True}
        elif self.records.stop() is not None:
            self.evidence |= {"stop_requested": True, "stopped_before_start": True}
        if self.evidence:
            self._write(ended=True, exit_code=None, signum=None)
            return EXIT_STOPPED
        try:
            code = self._watch(self._start())
        except OSError as error:
            self.evidence["error"] = f"cannot start {self.command[0]!r}: {error}"
            self._write(ended=True, exit_code=EXIT_NOT_STARTED, signum=None)
            return EXIT_NOT_STARTED
        exit_code, signum = (code, None) if code >= 0 else (None, -code)
        if exit_code == EXIT_RESUME and self._ended_at_a_deadline():
            self.evidence["deadline_hit"] = True
        before, after = self.oom_kills_before, processes.oom_kills()
        if before is not None and after is not None:
            self.evidence["oom_kills"] = after - before
        self._write(ended=True, exit_code=exit_code, signum=signum)
        return what_to_say(exit_code, signum, self.evidence, lost_in_a_row=lost_in_a_row(self.records.starts()))

    def _paid_before(self) -> float:
        """Seconds that the machine was paid for before we began: since it booted, if it booted for this start."""
        since = self.before[-1]["at"] if self.before else float(os.environ.get("PATRON_SUBMITTED_AT") or "inf")
        booted_at = processes.booted_at()
        return self.started_at - booted_at if booted_at is not None and booted_at >= since else 0.0

    def _listen(self) -> None:
        os.set_blocking(self.wake_w, False)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._told)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _told(self, *_: object) -> None:
        self.told_by_machine = True

    def _start(self) -> subprocess.Popen[bytes]:
        workload = subprocess.Popen(
            list(self.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {processes.ATTEMPT_VARIABLE: self.key},
            start_new_session=True,
            preexec_fn=processes.dying_with(os.getpid()),
        )
        threading.Thread(target=self._pass_on, args=(workload,), daemon=True).start()
        return workload

    def _pass_on(self, workload: subprocess.Popen[bytes]) -> None:
        """What it prints goes to our output, for SkyPilot's log, and its last lines into the record."""
        assert workload.stdout is not None
        for line in workload.stdout:
            self.tail.append(line.decode(errors="replace").rstrip("\n"))
            with suppress(OSError):
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()

    def _watch(self, workload: subprocess.Popen[bytes]) -> int:
        """Until the workload is gone, with everything that it left behind; its exit code, or minus the signal."""
        next_heartbeat = next_look = 0.0
        while workload.poll() is None:
            now = time.monotonic()
            if now >= next_look:
                self._obey(workload.pid, now)
                next_look = now + LOOK_S
            if now >= next_heartbeat:
                self.evidence["memory"] = processes.memory_reading(workload.pid)
                with suppress(OSError):  # a bucket that does not answer must not end the watch
                    self._write(ended=False)
                next_heartbeat = now + HEARTBEAT_S
            if select.select([self.wake_r], [], [], LOOK_S)[0]:
                os.read(self.wake_r, 4096)
                next_look = 0.0
        for _ in range(100):
            if not processes.kill_processes_of(self.key):
                break
            time.sleep(0.01)
        return int(workload.returncode)

    def _obey(self, pid: int, now: float) -> None:
        wish = None
        with suppress(OSError):
            wish = self.records.stop()
        kill_after_s = (wish or {}).get("kill_after_s")
        reasons = {
            "reclaim_notice": self.told_by_machine,
            "stop_requested": wish is not None and kill_after_s is None,
            "cancelled": kill_after_s is not None,
            "deadline_hit": self.deadline.is_over(self.used_s + now - self.started_monotonic),
        }
        new = [reason for reason, holds in reasons.items() if holds and reason not in self.evidence]
        self.evidence.update(dict.fromkeys(new, True))
        if "deadline_hit" in new:
            self.kill_at = min(self.kill_at, now + self.grace_s)
        if kill_after_s is not None and kill_after_s < self.evidence.get("cancel_grace_s", float("inf")):
            self.evidence["cancel_grace_s"] = kill_after_s
            self.kill_at = min(self.kill_at, now + kill_after_s)
        if new and not self.told_to_stop:
            self.told_to_stop = True  # once: a second SIGTERM means "at once" to many programs
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if now >= self.kill_at:
            self.evidence["killed"] = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _ended_at_a_deadline(self) -> bool:
        """Also its own: the workload may know of one that is shorter than ours."""
        elapsed_s = self.used_s + time.monotonic() - self.started_monotonic
        if elapsed_s >= self.deadline.seconds - _BY_DEADLINE_S:
            return True
        result = RunDir(self.run_dir).result() or {}
        return result.get("attempt") == self.key and result.get("reason") == "deadline"

    def _write(self, *, ended: bool, exit_code: int | None = None, signum: int | None = None) -> None:
        self.records.write_start(self.number, self._record(ended=ended, exit_code=exit_code, signum=signum))

    def _record(self, *, ended: bool, exit_code: int | None = None, signum: int | None = None) -> dict[str, Any]:
        newest = RunDir(self.run_dir).newest_checkpoint() if ended else None
        return {
            "key": self.key,
            "job": self.job,
            "number": self.number,
            "host": os.uname().nodename,
            "started_at": self.started_at,
            "setup_s": self.setup_s,
            "elapsed_s": self.setup_s + time.monotonic() - self.started_monotonic,  # what is paid for
            "at": time.time(),
            "ended": ended,
            "exit_code": exit_code,
            "signal": signum,
            "checkpoint_step": newest.step if newest else None,
            "evidence": self.evidence,
            "tail": list(self.tail),
        }


def what_to_say(exit_code: int | None, signum: int | None, evidence: Mapping[str, Any], *, lost_in_a_row: int) -> int:
    """The exit code that SkyPilot sees: it starts the job again on 75, and on nothing else."""
    asked = any(evidence.get(reason) for reason in ("stop_requested", "cancelled", "deadline_hit"))
    if exit_code == EXIT_RESUME:
        return EXIT_STOPPED if asked else EXIT_RESUME
    if exit_code is not None:
        return exit_code
    killed = signum in (signal.SIGKILL, signal.SIGTERM)
    if asked or evidence.get("oom_kills") or not killed or lost_in_a_row >= FAILURE_BUDGET:
        return EXIT_KILLED
    return EXIT_RESUME


def lost_in_a_row(starts: Sequence[Mapping[str, Any]]) -> int:
    """Deaths by a signal that nobody explains, since the last start that left a new checkpoint or was told to go."""
    count = 0
    reached = -1
    for start in starts:
        step = start.get("checkpoint_step")
        progressed = step is not None and int(step) > reached
        reached = max(reached, -1 if step is None else int(step))
        told = (start.get("evidence") or {}).get("reclaim_notice")
        if start.get("ended") and start.get("signal") and not told:
            count = 1 if progressed else count + 1
        elif progressed:
            count = 0
    return count


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m patron_core.executors.guard", description=__doc__)
    parser.add_argument("--key", required=True, help="the job's key: the attempt id, or any name")
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--deadline-s", type=float, default=float("inf"), help="of all starts together")
    parser.add_argument("--grace-s", type=float, help="from the deadline's SIGTERM to SIGKILL (default: what it takes)")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args(argv)
    if not is_key(args.key):
        parser.error(f"--key {args.key!r} must be 1 to 100 letters, digits, - or _")
    grace_s = kill_after_s(args.run_dir) if args.grace_s is None else args.grace_s
    guard = Guard(key=args.key, run_dir=args.run_dir, command=args.command, deadline_s=args.deadline_s, grace_s=grace_s)
    return guard.run()


if __name__ == "__main__":
    sys.exit(main())
