"""What SkyPilot says of a managed job and what its machines wrote down, as one observation. Pure.

SkyPilot knows whether there is a machine and whether it is being replaced; the machine's own record (records.py) knows
how the workload ended. Where there is no record the exit code is read from SkyPilot's words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from patron_core.executors.base import Observation, ObservedStatus
from trainer.contract.shapes import start_record

_BEFORE_START = frozenset({"PENDING", "SUBMITTED", "STARTING"})
_FAILED_HOW = {  # status -> the evidence that it is
    "FAILED_SETUP": "setup_failed",
    "FAILED_PRECHECKS": "no_resources",
    "FAILED_NO_RESOURCE": "no_resources",
    "FAILED_CONTROLLER": "controller_failed",
}
TERMINAL = frozenset({"SUCCEEDED", "CANCELLED", "FAILED", *_FAILED_HOW})
_SAID = ("failure_reason", "details", "cloud", "region", "zone", "last_recovered_at")
_EXIT_CODE = re.compile(r"exit(?:ed with exit)? codes? \[?(\d+)")
_SHOWN_STARTS = 10
UNSEEN_S = 60.0  # the most that is charged for a machine that wrote nothing down: thirty heartbeats


def observe_job(job: Mapping[str, Any], starts: Sequence[Mapping[str, Any]]) -> Observation:
    """`job` as Client.jobs gives it; `starts` as Records.starts does."""
    status = str(job.get("status"))
    evidence = _evidence(job, status, starts)
    uptime_s = machine_s(starts) or None
    if status in TERMINAL:
        return _ended(job, status, starts, evidence, uptime_s)
    has_run = bool(starts) or bool(job.get("recovery_count"))
    if status == "RECOVERING" or (status in _BEFORE_START and has_run):
        return Observation(status=ObservedStatus.RECOVERING, uptime_s=uptime_s, evidence=evidence)
    if status in _BEFORE_START or (not has_run and status == "CANCELLING"):
        return Observation(status=ObservedStatus.PENDING, evidence=evidence)
    return Observation(status=ObservedStatus.RUNNING, uptime_s=uptime_s, evidence=evidence)


def _evidence(job: Mapping[str, Any], status: str, starts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = starts[-1] if starts else {}
    evidence: dict[str, Any] = dict(last.get("evidence") or {})
    evidence |= {name: job[name] for name in _SAID if job.get(name) not in (None, "", "-", -1.0)}
    evidence |= {"sky_status": status, "recoveries": int(job.get("recovery_count") or 0)}
    if status in _FAILED_HOW:
        evidence[_FAILED_HOW[status]] = True
    if status in ("CANCELLING", "CANCELLED"):
        evidence["cancelled"] = True
    if "driver" in str(job.get("failure_reason") or "") and "failed" in str(job.get("failure_reason")):
        evidence["driver_failed"] = True
    if damaged := sum(bool(start.get("damaged")) for start in starts):
        evidence["damaged_records"] = damaged
    if placed := by_place(starts):
        evidence["machine_s"] = placed
    if last.get("at"):
        evidence |= {"heard_at": last["at"], "counted_s": float(job.get("job_duration") or 0.0)}
    evidence["starts"] = [
        {
            "host": start.get("host"),
            "place": start.get("place"),
            "elapsed_s": start.get("elapsed_s"),
            "exit_code": start.get("exit_code"),
            "signal": start.get("signal"),
            "ended": bool(start.get("ended")),
            "told": bool((start.get("evidence") or {}).get("reclaim_notice")),
        }
        for start in starts[-_SHOWN_STARTS:]
    ]
    return evidence


def machine_s(starts: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of machine by the machines' own records. SkyPilot's count goes on where nobody looks, so it is not asked:
    two minutes of a dead server with no machine behind it went on a bill."""
    return float(sum(start_record(start)["elapsed_s"] for start in starts))


def _unseen_s(job: Mapping[str, Any], starts: Sequence[Mapping[str, Any]]) -> float:
    """Of a job that is over: what its last machine may have worked after its last heartbeat, or without any."""
    if starts and starts[-1].get("ended"):
        return 0.0
    return min(UNSEEN_S, max(0.0, float(job.get("job_duration") or 0.0) - machine_s(starts)))


def by_place(starts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of machine by the place that it was in, where that is known."""
    found: dict[str, float] = {}
    for record in map(start_record, starts):
        if place := record.get("place"):
            found[place] = found.get(place, 0.0) + record["elapsed_s"]
    return found


def _ended(
    job: Mapping[str, Any],
    status: str,
    starts: Sequence[Mapping[str, Any]],
    evidence: dict[str, Any],
    uptime_s: float | None,
) -> Observation:
    last = starts[-1] if starts else {}
    exit_code: int | None = None
    signum: int | None = None
    if last.get("ended"):
        exit_code, signum = last.get("exit_code"), last.get("signal")
    elif status == "FAILED" and (said := _EXIT_CODE.search(str(job.get("failure_reason") or ""))):
        exit_code = int(said[1])
    elif status == "CANCELLED" and not starts:
        evidence["stopped_before_start"] = True
    elif starts and status in ("FAILED", "CANCELLED"):
        evidence["instance_gone"] = True  # its last machine went without a last word
    if status == "SUCCEEDED":
        exit_code, signum = 0, None
    if unseen_s := _unseen_s(job, starts):
        evidence["unseen_s"] = unseen_s
        uptime_s = (uptime_s or 0.0) + unseen_s
    gone = status == "FAILED_CONTROLLER" and exit_code is None and signum is None
    return Observation(
        status=ObservedStatus.GONE if gone else ObservedStatus.ENDED,
        exit_code=exit_code,
        signal=signum,
        uptime_s=uptime_s,
        evidence=evidence,
    )
