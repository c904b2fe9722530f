"""What is known of a job of this machine, from its folder and its processes. See runner.py for the files.

A look also does what nobody else is left to do: it settles that a job never starts whose runner never came, and ends
what a runner left that is dead, gone or stopped.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

from patron_core.executors import processes
from patron_core.executors.base import Observation, ObservedStatus
from patron_core.executors.deadline import moved
from patron_core.executors.runner import take_lock
from patron_core.rundir.files import read_json, write_json
from trainer.contract import control

START_WITHIN_S = 60.0  # from the claim to the runner's first word, on a machine that swaps
DEAF_AFTER_S = 10.0  # a runner that is so late with a kill does not run: somebody stopped it, or the machine swaps
_PENDING = Observation(status=ObservedStatus.PENDING)


def is_unstarted(job_dir: Path) -> bool:
    return not any((job_dir / name).exists() for name in ("started.json", "exit.json"))


def bury_unstarted(job_dir: Path, evidence: dict[str, Any]) -> None:
    """Settle that this job never starts, unless a runner has it already."""
    lock = take_lock(job_dir)
    if lock is not None:
        with lock:
            if is_unstarted(job_dir):
                write_json(job_dir / "exit.json", unstarted_end(evidence))


def unstarted_end(evidence: dict[str, Any]) -> dict[str, Any]:
    return {"exit_code": None, "signal": None, "elapsed_s": 0.0, "evidence": evidence}


def observe(key: str, job_dir: Path) -> Observation:
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
    deadline_s = _deadline_s(job)
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
    if is_this_boot and time.monotonic() - job["submitted_monotonic"] < START_WITHIN_S:
        return _PENDING
    bury_unstarted(
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


def _deadline_s(job: dict[str, Any]) -> float:
    key = job.get("env", {}).get(control.KEY_VARIABLE)
    return moved(job["run_dir"], job["key"], float(job["deadline_s"]), key=key)


def _is_overdue(job: dict[str, Any], since: float) -> bool:
    """Past everything that its runner would have let it live."""
    deadline_s = _deadline_s(job)
    return time.time() > since + deadline_s + float(job["grace_s"]) + START_WITHIN_S


def _on_another_machine(host: str) -> Observation:
    evidence = {"error": f"it was started on {host}, this is {os.uname().nodename}"}
    return Observation(status=ObservedStatus.UNREACHABLE, evidence=evidence)
