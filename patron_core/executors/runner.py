"""Starts one workload, watches over it to its end, and writes down how it ended. Outlives whoever asked for it.

    python -m patron_core.executors.runner JOB_DIR

JOB_DIR (local.py makes it)
    job.json        in: key, command, run_dir, env, deadline_s, grace_s
    stop.json       in: please stop (SIGTERM)            cancel.json   in: stop, and SIGKILL after its grace_s
    started.json    out: written before the workload starts; the proof that it must never be started again
    heartbeat.json  out: about every second: elapsed_s and memory, in case that we are killed
    exit.json       out: the end
    lock            held while we live; two runners of one job never go on together

It keeps the deadline by itself, even if everything else is gone. If it is killed, the workload dies with it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from patron_core.executors import processes
from patron_core.executors.deadline import Deadline
from patron_core.rundir.files import read_json, write_json
from trainer.contract.exits import EXIT_NOT_STARTED

HEARTBEAT_S = 1.0
_LOCK_PATIENCE_S = 2.0


def take_lock(job_dir: Path) -> IO[bytes] | None:
    """The job's lock, held until the file is closed or this process ends; None if somebody else has it."""
    file = (job_dir / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


class Runner:
    def __init__(self, job_dir: Path):
        self.job_dir = job_dir
        self.job: dict[str, Any] = read_json(job_dir / "job.json") or {}
        self.started_at = time.time()
        self.started_monotonic = time.monotonic()
        self.deadline = Deadline(self.job["run_dir"], self.job["key"], self.job["deadline_s"])
        self.kill_at = float("inf")  # monotonic
        self.told_to_stop = False
        self.told_by_machine = False  # a SIGTERM that is not from the executor: somebody shuts this machine down
        self.evidence: dict[str, Any] = {}
        self.oom_kills_before = processes.oom_kills()
        self.wake_r, self.wake_w = os.pipe()

    def run(self, on_record_w: int) -> None:
        self._listen()
        self._put_on_record()
        os.write(on_record_w, b"1")
        os.close(on_record_w)
        if self.told_by_machine or any((self.job_dir / name).exists() for name in ("stop.json", "cancel.json")):
            self.evidence["stopped_before_start"] = True
            self._write_exit(None, None)
            return
        try:
            workload = self._start()
        except OSError as error:
            self.evidence["error"] = f"cannot start {self.job['command'][0]!r}: {error}"
            self._write_exit(EXIT_NOT_STARTED, None)
            return
        status = self._watch(workload.pid)
        code = workload.returncode = os.waitstatus_to_exitcode(status)
        self._write_exit(code if code >= 0 else None, -code if code < 0 else None)

    def _put_on_record(self) -> None:
        write_json(
            self.job_dir / "started.json",
            {
                "runner": {"pid": os.getpid(), "mark": processes.mark(os.getpid())},
                "boot_id": processes.boot_id(),
                "host": os.uname().nodename,
                "started_at": self.started_at,
                "started_monotonic": self.started_monotonic,
                "oom_kills_before": self.oom_kills_before,
            },
        )

    def _listen(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.set_blocking(self.wake_w, False)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._told)
        for signum in (signal.SIGCHLD, signal.SIGUSR1):  # SIGUSR1: the executor says that a request is there
            signal.signal(signum, lambda *_: None)

    def _told(self, *_: object) -> None:
        self.told_by_machine = True

    def _start(self) -> subprocess.Popen[bytes]:
        log = Path(self.job["run_dir"], "logs", f"{self.job['key']}.log")
        if "://" in self.job["run_dir"]:  # the log goes there by itself; what else is printed stays here
            log = self.job_dir / "workload.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                self.job["command"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | self.job["env"] | {processes.ATTEMPT_VARIABLE: self.job["key"]},
                start_new_session=True,
                preexec_fn=processes.dying_with(os.getpid()),
            )

    def _watch(self, pid: int) -> int:
        """Until the workload and everything that it left behind is gone; its wait status."""
        next_heartbeat = 0.0
        while True:
            waited_pid, status, usage = os.wait4(pid, os.WNOHANG)
            if waited_pid:
                break
            now = time.monotonic()
            self._obey(pid, now)
            if now >= next_heartbeat:
                self._heartbeat(pid)
                next_heartbeat = now + HEARTBEAT_S
            deadline = self.started_monotonic + self.deadline.seconds
            wake_at = min(next_heartbeat, self.kill_at, deadline if now < deadline else next_heartbeat)
            if select.select([self.wake_r], [], [], max(0.01, wake_at - now))[0]:
                os.read(self.wake_r, 4096)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        for _ in range(100):  # those that left the group, too: nothing may burn on
            if not processes.kill_processes_of(self.job["key"]):
                break
            time.sleep(0.01)
        self.evidence["max_rss_bytes"] = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return status

    def _obey(self, pid: int, now: float) -> None:
        reasons = {
            "reclaim_notice": self.told_by_machine,
            "stop_requested": (self.job_dir / "stop.json").exists(),
            "cancelled": (self.job_dir / "cancel.json").exists(),
            "deadline_hit": self.deadline.is_over(now - self.started_monotonic),
        }
        new = [reason for reason, holds in reasons.items() if holds and reason not in self.evidence]
        self.evidence.update(dict.fromkeys(new, True))
        if "deadline_hit" in new:
            self.kill_at = min(self.kill_at, now + self.job["grace_s"])
        if reasons["cancelled"]:
            cancel = read_json(self.job_dir / "cancel.json") or {"grace_s": 0.0}
            if cancel["grace_s"] < self.evidence.get("cancel_grace_s", float("inf")):
                self.evidence["cancel_grace_s"] = cancel["grace_s"]
                self.kill_at = min(self.kill_at, now + cancel["grace_s"])
        if new and not self.told_to_stop:
            self.told_to_stop = True  # once: a second SIGTERM means "at once" to many programs
            os.kill(pid, signal.SIGTERM)
        if now >= self.kill_at:
            self.evidence["killed"] = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _heartbeat(self, pid: int) -> None:
        self.evidence["memory"] = processes.memory_reading(pid)
        with suppress(OSError):  # a full disk must not end the watch
            write_json(
                self.job_dir / "heartbeat.json",
                {
                    "elapsed_s": time.monotonic() - self.started_monotonic,
                    "workload": {"pid": pid, "mark": processes.mark(pid)},
                    "evidence": self.evidence,
                },
                durable=False,
            )

    def _write_exit(self, exit_code: int | None, signum: int | None) -> None:
        elapsed_s = time.monotonic() - self.started_monotonic
        before, after = self.oom_kills_before, processes.oom_kills()
        if before is not None and after is not None:
            self.evidence["oom_kills"] = after - before
        write_json(
            self.job_dir / "exit.json",
            {
                "exit_code": exit_code,
                "signal": signum,
                "elapsed_s": elapsed_s,
                "started_at": self.started_at,
                "ended_at": time.time(),
                "oom_kills_before": before,
                "oom_kills_after": after,
                "evidence": self.evidence,
            },
        )


def main(job_dir: Path) -> int:
    """Cuts itself loose, and returns once the start is on record (0), or cannot be (1)."""
    give_up_at = time.monotonic() + _LOCK_PATIENCE_S
    while (lock := take_lock(job_dir)) is None:  # held for a moment by a look, or for long by another runner
        if (job_dir / "started.json").exists() or time.monotonic() > give_up_at:
            return 0
        time.sleep(0.01)
    if any((job_dir / name).exists() for name in ("started.json", "exit.json")):
        return 0
    on_record_r, on_record_w = os.pipe()
    if os.fork():  # nobody's child but init's: whoever asked has no zombie to wait for
        os.close(on_record_w)
        return 0 if os.read(on_record_r, 1) else 1
    os.close(on_record_r)
    with lock:
        Runner(job_dir).run(on_record_w)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
