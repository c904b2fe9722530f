"""Runs attempts on this machine, in processes that outlive the notebook that started them and are found again.

Everything that is known of a job lies in PATRON_HOME/jobs/<key>; runner.py says what each file is. The folder appears
whole, with its job.json, before anything starts, and there is one for a key for ever. The runner starts the workload
only under the job's lock and if none was started before, so starting a runner twice is harmless.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from patron_core import settings
from patron_core.errors import Conflict, Unavailable
from patron_core.executors import processes
from patron_core.executors.base import Handle, Job, Observation, ObservedStatus, is_key
from patron_core.executors.deadline import moved
from patron_core.executors.runner import take_lock
from patron_core.rundir.files import read_json, tail, write_json
from patron_core.rundir.rundir import RunDir

_START_WITHIN_S = 60.0  # from the claim to the runner's first word, on a machine that swaps
DEAF_AFTER_S = 10.0  # a runner that is so late with a kill does not run: somebody stopped it, or the machine swaps
_PENDING = Observation(status=ObservedStatus.PENDING)


class LocalExecutor:
    """`recovers_itself` is False: the core decides whether to launch again."""

    name = "local"
    recovers_itself = False

    def submit(self, job: Job) -> Handle:
        with _asking():
            return self._submit(job)

    def _submit(self, job: Job) -> Handle:
        job_dir = _claim(job.key, _content(job))
        claimed = read_json(job_dir / "job.json") or {}
        if claimed.get("run_dir") != job.run_dir:
            raise Conflict(
                f"{job.key} was submitted before, for {claimed.get('run_dir')}, not for {job.run_dir}",
                next="use a new attempt id",
            )
        if _is_unstarted(job_dir):
            _start_runner(job_dir)
        return _handle(job.key, job_dir)

    def find(self, key: str) -> Handle | None:
        job_dir = _jobs_folder() / key
        return _handle(key, job_dir) if is_key(key) and (job_dir / "job.json").exists() else None

    def forbid(self, key: str, run_dir: str) -> Handle | None:
        """A job that ended before it began: whoever comes later finds that, and starts nothing."""
        with _asking():
            content = {"key": key, "run_dir": run_dir, "deadline_s": 0.0, "grace_s": 0.0, "forbidden": True}
            job_dir = _claim(key, content, end=_unstarted_end({"stopped_before_start": True}))
            claimed = read_json(job_dir / "job.json") or {}
        return None if claimed.get("forbidden") else _handle(key, job_dir)

    def poll(self, handle: Handle) -> Observation:
        try:
            return _observe(handle["key"], Path(handle["job_dir"]))
        except OSError as error:
            return Observation(status=ObservedStatus.UNREACHABLE, evidence={"error": str(error)})

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        job_dir = Path(handle["job_dir"])
        with _asking():
            if _is_over(job_dir):
                return
            asked = read_json(job_dir / "cancel.json")
            if asked is None or grace_s < asked["grace_s"]:
                asked = {"at": time.time(), "monotonic": time.monotonic(), "boot_id": processes.boot_id()}
                write_json(job_dir / "cancel.json", asked | {"grace_s": grace_s})
            _wake(job_dir)

    def logs(self, handle: Handle, lines: int) -> str:
        job_dir = Path(handle["job_dir"])
        job = read_json(job_dir / "job.json")
        printed = RunDir(job["run_dir"]).log_tail(handle["key"], lines) if job else ""
        return printed or tail(job_dir / "workload.log", lines) or tail(job_dir / "runner.log", lines)


@contextmanager
def _asking() -> Iterator[None]:
    """A disk that is full or not there is Unavailable, like a server that does not answer."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the jobs in {_jobs_folder()} cannot be reached: {error}", next="mend that folder, then try again"
        ) from error


def _jobs_folder() -> Path:
    return settings.home() / "jobs"


def _handle(key: str, job_dir: Path) -> Handle:
    return {"executor": "local", "key": key, "job_dir": str(job_dir)}


def _content(job: Job) -> dict[str, Any]:
    return {
        "key": job.key,
        "command": job.command,
        "run_dir": job.run_dir,
        "env": dict(job.env),
        "deadline_s": job.deadline_s,
        "grace_s": job.grace_s,
    }


def _claim(key: str, content: dict[str, Any], *, end: dict[str, Any] | None = None) -> Path:
    """The job's folder, made if there is none. It appears whole or not at all, for one claimant only."""
    job_dir = _jobs_folder() / key
    if (job_dir / "job.json").exists():
        return job_dir
    settings.make_home()
    _jobs_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=_jobs_folder(), prefix=".claim-"))  # for us only: env may hold secrets
    here = {
        "boot_id": processes.boot_id(),
        "host": os.uname().nodename,
        "submitted_at": time.time(),
        "submitted_monotonic": time.monotonic(),
    }
    write_json(draft / "job.json", content | here)
    if end is not None:
        write_json(draft / "exit.json", end)
    try:
        draft.rename(job_dir)
    except OSError:
        shutil.rmtree(draft)
        if not (job_dir / "job.json").exists():
            raise
    return job_dir


def _start_runner(job_dir: Path) -> None:
    command = [sys.executable, "-P", "-m", "patron_core.executors.runner", str(job_dir)]
    with (job_dir / "runner.log").open("ab") as log:
        started = subprocess.run(  # returns as soon as the runner has cut itself loose
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, check=False
        )
    if started.returncode != 0:
        raise Unavailable(
            f"the runner of {job_dir.name} did not start, exit code {started.returncode}: "
            + tail(job_dir / "runner.log", 1),
            next=f"read {job_dir / 'runner.log'}, then submit again",
        )


def _is_over(job_dir: Path) -> bool:
    if not job_dir.parent.is_dir():
        raise FileNotFoundError(f"{job_dir.parent} is not there")
    return not job_dir.exists() or (job_dir / "exit.json").exists()


def _is_unstarted(job_dir: Path) -> bool:
    return not any((job_dir / name).exists() for name in ("started.json", "exit.json"))


def _wake(job_dir: Path) -> None:
    """Have a request seen at once. The runner looks every second anyway, also from another machine."""
    started = read_json(job_dir / "started.json")
    if started is None:
        _bury_unstarted(job_dir, {"stopped_before_start": True})
    elif not processes.send_signal(started["runner"]["pid"], started["runner"]["mark"], signal.SIGUSR1):
        _observe(job_dir.name, job_dir)  # kills what a killed runner left


def _bury_unstarted(job_dir: Path, evidence: dict[str, Any]) -> None:
    """Settle that this job never starts, unless a runner has it already."""
    lock = take_lock(job_dir)
    if lock is not None:
        with lock:
            if _is_unstarted(job_dir):
                write_json(job_dir / "exit.json", _unstarted_end(evidence))


def _unstarted_end(evidence: dict[str, Any]) -> dict[str, Any]:
    return {"exit_code": None, "signal": None, "elapsed_s": 0.0, "evidence": evidence}


def _observe(key: str, job_dir: Path) -> Observation:
    job = read_json(job_dir / "job.json")
    if job is None:
        return _observe_without_folder(key, job_dir)
    started = read_json(job_dir / "started.json")
    # before the look at exit.json: a runner that ends between the two has written its last word by then
    runner = _runner_state(job_dir, started)
    ended = _observe_end(job_dir)
    if ended is not None:
        return ended
    if started is None:
        return _observe_unstarted(job, job_dir)
    heartbeat = read_json(job_dir / "heartbeat.json") or {}
    is_this_boot = started["boot_id"] == processes.boot_id()
    evidence: dict[str, Any] = dict(heartbeat.get("evidence", {}))
    uptime_s = heartbeat.get("elapsed_s")
    if runner == "alive":
        if is_this_boot:  # the monotonic clock is the machine's, one for all its processes
            uptime_s = time.monotonic() - started["started_monotonic"]
            _kill_if_deaf(job, started, job_dir, uptime_s)
        return Observation(status=ObservedStatus.RUNNING, uptime_s=uptime_s, evidence=evidence)
    if runner == "unknown" and not _is_overdue(job, started["started_at"]):
        return _on_another_machine(started["host"])
    if is_this_boot:
        deaf = read_json(job_dir / "deaf.json")
        evidence |= deaf["evidence"] if deaf else {"runner_killed": True}
        uptime_s = max(uptime_s or 0.0, deaf["elapsed_s"]) if deaf else uptime_s
        if processes.kill_processes_of(key):
            return Observation(status=ObservedStatus.RUNNING, uptime_s=uptime_s, evidence=evidence)
        before, after = started["oom_kills_before"], processes.oom_kills()
        if before is not None and after is not None:
            evidence["oom_kills"] = after - before
    elif started["host"] == os.uname().nodename:
        evidence |= {"rebooted": True, "instance_gone": True}
    else:
        evidence["error"] = f"{started['host']} was not heard of, and its own guard has ended the job by now"
    return Observation(status=ObservedStatus.GONE, uptime_s=uptime_s, evidence=evidence)


def _kill_if_deaf(job: dict[str, Any], started: dict[str, Any], job_dir: Path, uptime_s: float) -> None:
    """A runner that is stopped neither hears a cancel nor keeps its deadline: do its work, once it is well overdue."""
    cancel = read_json(job_dir / "cancel.json") or {}
    is_this_boot = cancel.get("boot_id") == processes.boot_id()
    cancelled_s = time.monotonic() - cancel["monotonic"] - cancel["grace_s"] if is_this_boot else 0.0
    deadline_s = moved(job["run_dir"], job["key"], float(job["deadline_s"]))
    over_s = {"cancelled": cancelled_s, "deadline_hit": uptime_s - deadline_s - float(job["grace_s"])}
    overdue = {reason: True for reason, seconds in over_s.items() if seconds > DEAF_AFTER_S}
    if overdue:
        evidence = overdue | {"killed": True, "runner_deaf": True}
        write_json(job_dir / "deaf.json", {"elapsed_s": uptime_s, "evidence": evidence})
        processes.send_signal(started["runner"]["pid"], started["runner"]["mark"], signal.SIGKILL)
        processes.kill_processes_of(job["key"])


def _observe_end(job_dir: Path) -> Observation | None:
    end = read_json(job_dir / "exit.json")
    if end is None:
        return None
    return Observation(
        status=ObservedStatus.GONE if "never_started" in end["evidence"] else ObservedStatus.ENDED,
        exit_code=end["exit_code"],
        signal=end["signal"],
        uptime_s=end["elapsed_s"],
        evidence=end["evidence"],
    )


def _observe_unstarted(job: dict[str, Any], job_dir: Path) -> Observation:
    """Its runner is on its way, or whoever claimed it died before starting one."""
    is_this_boot = job["boot_id"] == processes.boot_id()
    if not is_this_boot and job["host"] != os.uname().nodename and not _is_overdue(job, job["submitted_at"]):
        return _on_another_machine(job["host"])
    if is_this_boot and time.monotonic() - job["submitted_monotonic"] < _START_WITHIN_S:
        return _PENDING
    _bury_unstarted(
        job_dir, {"never_started": True} | ({} if is_this_boot else {"rebooted": True, "instance_gone": True})
    )
    return _observe_end(job_dir) or _PENDING


def _observe_without_folder(key: str, job_dir: Path) -> Observation:
    if not job_dir.parent.is_dir():
        return Observation(status=ObservedStatus.UNREACHABLE, evidence={"error": f"{job_dir.parent} is not there"})
    evidence = {"error": f"{job_dir} was deleted"}
    # nobody can watch it any more, so it may not go on
    left = processes.kill_processes_of(key)
    return Observation(status=ObservedStatus.RUNNING if left else ObservedStatus.GONE, evidence=evidence)


def _runner_state(job_dir: Path, started: dict[str, Any] | None) -> Literal["alive", "dead", "unknown"]:
    if started is None:
        return "unknown"
    if processes.is_alive(started["runner"]["pid"], started["runner"]["mark"]):
        return "alive"
    lock = take_lock(job_dir)
    if lock is None:
        return "alive"  # in another container of this machine, or on one that shares this folder
    lock.close()
    # a lock that is free says something about this machine only: not every shared folder passes locks on
    return "dead" if started["boot_id"] == processes.boot_id() or started["host"] == os.uname().nodename else "unknown"


def _is_overdue(job: dict[str, Any], since: float) -> bool:
    """Past everything that its runner would have let it live."""
    deadline_s = moved(job["run_dir"], job["key"], float(job["deadline_s"]))
    return time.time() > since + deadline_s + float(job["grace_s"]) + _START_WITHIN_S


def _on_another_machine(host: str) -> Observation:
    evidence = {"error": f"it was started on {host}, this is {os.uname().nodename}"}
    return Observation(status=ObservedStatus.UNREACHABLE, evidence=evidence)
