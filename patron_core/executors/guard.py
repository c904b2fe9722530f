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

Of several machines each has its own guard, which hears the same requests. SkyPilot takes the code of whoever ends badly
first, and kills the rest: so the first machine's judges, and the others wait for its record and say the same. Where it
is gone they judge by themselves, and keep the deadline a grace later.

It writes to its run directory and nowhere else, and needs no server: the guard holds even if the core is gone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from patron_core import settings
from patron_core.executors import processes
from patron_core.executors.deadline import Deadline
from patron_core.executors.records import Records
from patron_core.executors.restarting import judged
from patron_core.executors.watcher import Ending, Silence, Watcher, changed_at
from patron_core.rundir.rundir import RunDir
from trainer.contract import control
from trainer.contract.exits import EXIT_DONE, EXIT_NOT_STARTED, EXIT_RESUME, EXIT_STOPPED, SOURCE_UNREACHABLE
from trainer.contract.grace import LEAVE_S, kill_after_s, linger_s
from trainer.contract.keys import JOB_VARIABLE, KEY_WORDS, is_key
from trainer.contract.masking import mask
from trainer.contract.ranks import node_rank, world_size
from trainer.contract.remote import is_url
from trainer.contract.words import printable

HEARTBEAT_S = 2.0
END_TRIES = 3
CLOCK_NOISE_S = 60.0  # between the submitter's clock and this machine's
LOOK_S = 0.5  # between looks for a request to stop
TAIL_LINES = 60
_TAIL_WITHIN_S = 2.0  # from the workload's end to its last lines
_BY_DEADLINE_S = 1.0  # a workload that knows the deadline ends by itself, a moment before we would say so


class Guard:
    def __init__(self, *, key: str, run_dir: str, command: Sequence[str], deadline_s: float, grace_s: float):
        self.key, self.run_dir, self.command = key, run_dir, command
        self.grace_s = grace_s
        self.node = node_rank()
        self.records, self.first = Records(run_dir, key, node=self.node), Records(run_dir, key)
        self.before = self.records.starts()
        self.number = len(self.before) + 1
        self.job = os.environ.get("SKYPILOT_MANAGED_JOB_ID")  # the same on every machine that it is given
        self.place = _place()
        self.started_at = time.time()
        self.setup_s = self._paid_before()
        # on machines that it had before, and in the set-up of this one
        self.used_s = self._at_most_since_submitted(self.setup_s + sum(record["elapsed_s"] for record in self.before))
        if self.node:  # as the first counts it, however early this one booted
            of_first = sum(record["elapsed_s"] for record in self.first.starts())
            self.used_s = self._at_most_since_submitted(of_first) - grace_s
        self.deadline = Deadline(run_dir, key, deadline_s, key=os.environ.get(control.KEY_VARIABLE))
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.num_lines = 0
        self.recorded = [] if is_url(run_dir) else [Path(run_dir, "events")]
        self.job_name = f"{key}-{uuid.uuid4().hex}"  # two guards of one machine may have one key, such as the files'
        self.watcher = Watcher(
            self.job_name,
            self.deadline,
            used_s=self.used_s,
            grace_s=grace_s,
            silence=Silence(lambda: (self.num_lines, changed_at(*self.recorded))),
        )

    def run(self) -> int:
        evidence = self.watcher.evidence
        self.watcher.listen()
        owner = self.before[0].get("job") if self.before else self.job
        if owner != self.job or not self.records.claim_start(self.number, self._record(ended=False)):
            said = f"guard: job {owner} of SkyPilot owns {self.key}; this one, {self.job}, does nothing"
            print(printable(said), flush=True)
            return EXIT_STOPPED
        if self.watcher.is_over():
            evidence |= {"deadline_hit": True, "stopped_before_start": True}
        elif self._wish() is not None:
            evidence |= {"cancelled": True, "stopped_before_start": True}
        if evidence:
            self._write_end(None, None)
            return EXIT_STOPPED
        ending = Ending(self.command, self.run_dir, self.key)
        try:
            workload = self._start()
        except OSError as error:
            evidence["error"] = f"cannot start {self.command[0]!r}: {error}"
            self._write_end(EXIT_NOT_STARTED, None)
            return EXIT_NOT_STARTED
        return self._see_through(workload, ending)

    def _see_through(self, workload: subprocess.Popen[bytes], ending: Ending) -> int:
        passing_on = threading.Thread(target=self._pass_on, args=(workload,), daemon=True)
        passing_on.start()
        code = self.watcher.watch(
            workload,
            wish=self._wish,
            heartbeat=lambda: self.records.write_start(self.number, self._record(ended=False)),
            look_s=LOOK_S,
            heartbeat_s=HEARTBEAT_S,
        )
        passing_on.join(_TAIL_WITHIN_S)
        exit_code, signum = ending.read(code)
        evidence = self.watcher.evidence
        if exit_code == EXIT_RESUME:
            if self._ended_at_a_deadline():
                evidence["deadline_hit"] = True
            if self._own_reason() == SOURCE_UNREACHABLE:
                evidence[SOURCE_UNREACHABLE] = True
            with suppress(OSError):
                if self._wish() is not None:  # another machine's guard may have heard it sooner
                    evidence["cancelled"] = True
        self.watcher.count_oom_kills()
        if signum is not None and not self.node and (found := self._oom_kills_elsewhere()):
            evidence["oom_kills"] = evidence.get("oom_kills", 0) + found
        own = judged([*self.before, self._write_end(exit_code, signum)])
        if not self.node or own == EXIT_DONE or self.watcher.told_by_machine:  # one that is taken away cannot wait
            return own
        said = self._said_by_the_first()
        return own if said is None else said

    def _said_by_the_first(self) -> int | None:
        """The exit code of the first machine's guard for this start. None where it is not there in time."""
        end = time.monotonic() + linger_s() + LEAVE_S
        while time.monotonic() < end:
            with suppress(OSError):
                starts = self.first.starts()
                if starts and starts[-1]["ended"] and starts[-1]["at"] >= self.started_at:
                    return judged(starts)
            time.sleep(LOOK_S)
        return None

    def _oom_kills_elsewhere(self) -> int:
        """On the other machines, in this start: here a process killed for memory there is only one that fell silent."""
        found = 0
        with suppress(OSError):
            for node in range(1, world_size().nodes):
                starts = Records(self.run_dir, self.key, node=node).starts()
                if starts and starts[-1]["at"] >= self.started_at:
                    found += int(starts[-1]["evidence"].get("oom_kills") or 0)
        return found

    def _paid_before(self) -> float:
        """Seconds that the machine was paid for before we began: since it booted, if it booted for this start."""
        since = self.before[-1]["at"] if self.before else _submitted_at()
        booted_at = processes.booted_at()
        if booted_at is None or since is None or booted_at < since:
            return 0.0
        return self._at_most_since_submitted(self.started_at - booted_at)

    def _at_most_since_submitted(self, seconds: float) -> float:
        """What earlier machines wrote down is foreign: no more than has passed is counted."""
        submitted_at = _submitted_at()
        if submitted_at is None:
            return seconds
        return min(seconds, max(0.0, self.started_at - submitted_at) + CLOCK_NOISE_S)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(self.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {JOB_VARIABLE: self.job_name} | world_size().rendezvous(self.key),
            start_new_session=True,
            preexec_fn=processes.dying_with(os.getpid()),
        )

    def _pass_on(self, workload: subprocess.Popen[bytes]) -> None:
        """What it prints goes to our output, for SkyPilot's log, and its last lines into the record."""
        assert workload.stdout is not None
        for line in workload.stdout:
            self.num_lines += 1
            self.tail.append(line.decode(errors="replace").rstrip("\n"))
            with suppress(OSError):
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()

    def _wish(self) -> float | None:
        wish = self.records.stop()
        if wish is None:
            return None
        kill_after_s = wish.get("kill_after_s")
        return self.grace_s if kill_after_s is None else float(kill_after_s)

    def _ended_at_a_deadline(self) -> bool:
        """Also its own: the workload may know of one that is shorter than ours."""
        if self.used_s + self.watcher.elapsed_s() >= self.deadline.seconds - _BY_DEADLINE_S:
            return True
        return self._own_reason() == "deadline"

    def _own_reason(self) -> str | None:
        """Of the workload's last word, if it had one."""
        result = RunDir(self.run_dir).result() or {}
        return result.get("reason") if result.get("attempt") == self.key else None

    def _write_end(self, exit_code: int | None, signum: int | None) -> dict[str, Any]:
        """The record. A bucket that does not answer is asked again for a while: the exit code must come out anyway."""
        record = self._record(ended=True, exit_code=exit_code, signum=signum)
        for _ in range(END_TRIES):
            try:
                newest = RunDir(self.run_dir).newest_checkpoint()
                record["checkpoint_step"] = newest.step if newest else None
                self.records.write_start(self.number, record)
                break
            except OSError as error:
                print(printable(f"guard: the end is not written: {error}"), file=sys.stderr, flush=True)
                time.sleep(1.0)
        return record

    def _record(self, *, ended: bool, exit_code: int | None = None, signum: int | None = None) -> dict[str, Any]:
        return {
            "key": self.key,
            "job": self.job,
            "number": self.number,
            "host": os.uname().nodename,
            "place": self.place,
            "started_at": self.started_at,
            "setup_s": self.setup_s,
            "elapsed_s": self.setup_s + self.watcher.elapsed_s(),  # what is paid for
            "at": time.time(),
            "ended": ended,
            "exit_code": exit_code,
            "signal": signum,
            "checkpoint_step": None,
            "evidence": self.watcher.evidence,
            "tail": [mask(line) for line in self.tail],
        }


def _place() -> str:
    """Where SkyPilot found this machine, cloud/region/zone: what an hour of it costs. Empty where nobody says so."""
    try:
        cluster = json.loads(os.environ.get("SKYPILOT_CLUSTER_INFO") or "{}")
        parts = [str(cluster[name]) for name in ("cloud", "region", "zone") if cluster.get(name)]
    except (ValueError, TypeError, AttributeError):
        return ""
    return "/".join(parts).lower()


def _submitted_at() -> float | None:
    """Unix seconds by the clock of whoever submitted; None where a person did, by hand."""
    said = os.environ.get("PATRON_SUBMITTED_AT")
    return float(said) if said else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m patron_core.executors.guard", description=__doc__)
    parser.add_argument("--key", required=True, help="the job's key: the attempt id, or any name")
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--deadline-s", type=float, default=float("inf"), help="of all starts together")
    parser.add_argument("--grace-s", type=float, help="from the deadline's SIGTERM to SIGKILL (default: what it takes)")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args(argv)
    if not is_key(args.key):
        parser.error(f"--key {args.key!r} must be {KEY_WORDS}")
    settings.keep_private()
    grace_s = kill_after_s(args.run_dir) if args.grace_s is None else args.grace_s
    guard = Guard(key=args.key, run_dir=args.run_dir, command=args.command, deadline_s=args.deadline_s, grace_s=grace_s)
    return guard.run()


if __name__ == "__main__":
    sys.exit(main())
