"""Starts one workload, watches over it to its end, and writes down how it ended. Outlives whoever asked for it.

    python -m patron_core.executors.runner JOB_DIR

JOB_DIR (local.py makes it)
    job.json        in: key, command, run_dir, env, deadline_s, grace_s
    cancel.json     in: please stop (SIGTERM), and SIGKILL after its grace_s
    started.json    out: written before the workload starts; the proof that it must never be started again
    heartbeat.json  out: about every second: elapsed_s and evidence, in case that we are killed
    exit.json       out: the end
    lock            held while we live; two runners of one job never go on together

It keeps the deadline by itself, even if everything else is gone. If it is killed, the workload dies with it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from patron_core import settings
from patron_core.executors import processes
from patron_core.executors.deadline import Deadline
from patron_core.executors.watcher import Ending, Silence, Watcher, changed_at
from patron_core.rundir.files import read_json, write_json
from trainer.contract import control
from trainer.contract.exits import EXIT_NOT_STARTED
from trainer.contract.keys import JOB_VARIABLE
from trainer.contract.remote import is_url

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
        key, run_dir = self.job["key"], self.job["run_dir"]
        self.log = Path(run_dir, "logs", f"{key}.log")
        self.recorded = [self.log, Path(run_dir, "events")]
        if is_url(run_dir):  # the log goes there by itself; what else is printed stays here
            self.log = job_dir / "workload.log"
            self.recorded = [self.log]
        self.started_at = time.time()
        self.watcher = Watcher(
            key,
            Deadline(run_dir, key, self.job["deadline_s"], key=self.job["env"].get(control.KEY_VARIABLE)),
            used_s=0.0,
            grace_s=self.job["grace_s"],
            silence=Silence(lambda: changed_at(*self.recorded)),
        )

    def run(self, on_record_w: int) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self.watcher.listen(signal.SIGUSR1)  # the executor says that a request is there
        self._put_on_record()
        os.write(on_record_w, b"1")
        os.close(on_record_w)
        if self.watcher.told_by_machine or self._wish() is not None:
            self.watcher.evidence["stopped_before_start"] = True
            self._write_exit(None, None)
            return
        ending = Ending(self.job["command"], self.job["run_dir"], self.job["key"])
        try:
            workload = self._start()
        except OSError as error:
            self.watcher.evidence["error"] = f"cannot start {self.job['command'][0]!r}: {error}"
            self._write_exit(EXIT_NOT_STARTED, None)
            return
        code = self.watcher.watch(
            workload,
            wish=self._wish,
            heartbeat=lambda: self._heartbeat(workload.pid),
            look_s=HEARTBEAT_S,
            heartbeat_s=HEARTBEAT_S,
        )
        self._write_exit(*ending.read(code))

    def _put_on_record(self) -> None:
        write_json(
            self.job_dir / "started.json",
            {
                "runner": {"pid": os.getpid(), "mark": processes.mark(os.getpid())},
                "boot_id": processes.boot_id(),
                "host": os.uname().nodename,
                "started_at": self.started_at,
                "started_monotonic": self.watcher.started_monotonic,
                "oom_kills_before": self.watcher.oom_kills_before,
            },
        )

    def _start(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self.job["command"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=settings.for_workloads() | self.job["env"] | {JOB_VARIABLE: self.job["key"]},
                start_new_session=True,
                preexec_fn=processes.dying_with(os.getpid()),
            )

    def _wish(self) -> float | None:
        if not (self.job_dir / "cancel.json").exists():
            return None
        return float((read_json(self.job_dir / "cancel.json") or {}).get("grace_s", 0.0))

    def _heartbeat(self, pid: int) -> None:
        beat = {
            "elapsed_s": self.watcher.elapsed_s(),
            "workload": {"pid": pid, "mark": processes.mark(pid)},
            "evidence": self.watcher.evidence,
        }
        write_json(self.job_dir / "heartbeat.json", beat, durable=False)

    def _write_exit(self, exit_code: int | None, signum: int | None) -> None:
        elapsed_s = self.watcher.elapsed_s()
        after = self.watcher.count_oom_kills()
        write_json(
            self.job_dir / "exit.json",
            {
                "exit_code": exit_code,
                "signal": signum,
                "elapsed_s": elapsed_s,
                "started_at": self.started_at,
                "ended_at": time.time(),
                "oom_kills_before": self.watcher.oom_kills_before,
                "oom_kills_after": after,
                "evidence": self.watcher.evidence,
            },
        )


def main(job_dir: Path) -> int:
    """Cuts itself loose, and returns once the start is on record (0), or cannot be (1)."""
    settings.keep_private()
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
