"""A machine that is two kinds with two prices: spot, there when a trace says so, and on demand, there always.

Its jobs work through `work_s` of a run, save a checkpoint each `save_every_s`, and say 75 when they are asked to stop.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patron_core.executors.base import Handle, Job, Observation, ObservedStatus

SPOT_HOURLY, ON_DEMAND_HOURLY = 1_200_000, 3_600_000
STOP_S = 5.0


class MarketMachine:
    """`recovers_itself`: as SkyPilot does it, one job is given machine after machine. Time is what the test says."""

    name = "local"

    def __init__(
        self,
        trace: Sequence[bool],
        *,
        trace_step_s: float,
        work_s: float,
        start_s: float,
        save_every_s: float,
        num_steps: int,
        recovers_itself: bool,
    ):
        self.recovers_itself = recovers_itself
        self.now = 0.0
        self.paid_s = {"spot": 0.0, "on_demand": 0.0}
        self.reclaims = 0
        self.finished_at: float | None = None
        self._trace, self._trace_step_s = trace, trace_step_s
        self._work_s, self._start_s, self._save_every_s, self._num_steps = work_s, start_s, save_every_s, num_steps
        self._saved_s = 0.0
        self.jobs: dict[str, dict[str, Any]] = {}

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for job in self.jobs.values():
            self._advance(job, seconds)

    def submit(self, job: Job) -> Handle:
        assert all(one["end"] is not None for key, one in self.jobs.items() if key != job.key), "two at once"
        kind = "spot" if job.machine["spot"] else "on_demand"
        fresh = {"job": job, "kind": kind, "up": False, "uptime_s": 0.0, "end": None, "stop_at": None}
        self.jobs.setdefault(job.key, fresh)
        return {"executor": self.name, "key": job.key}

    def find(self, key: str) -> Handle | None:
        return {"executor": self.name, "key": key} if key in self.jobs else None

    def forbid(self, key: str, run_dir: str) -> Handle | None:
        return self.find(key)

    def poll(self, handle: Handle) -> Observation:
        job = self.jobs[handle["key"]]
        if job["end"] is not None:
            return Observation(status=ObservedStatus.ENDED, uptime_s=job["uptime_s"], **job["end"])
        lost = ObservedStatus.RECOVERING if job["uptime_s"] else ObservedStatus.PENDING
        return Observation(status=ObservedStatus.RUNNING if job["up"] else lost, uptime_s=job["uptime_s"] or None)

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        job = self.jobs[handle["key"]]
        job["stop_at"] = job["stop_at"] if job["stop_at"] is not None else self.now + min(STOP_S, grace_s)

    def logs(self, handle: Handle, lines: int) -> str:
        return ""

    def _is_spot_there(self) -> bool:
        step = int(self.now / self._trace_step_s)
        return step < len(self._trace) and bool(self._trace[step])

    def _advance(self, job: dict[str, Any], seconds: float) -> None:
        if job["end"] is not None:
            return
        there = job["kind"] == "on_demand" or self._is_spot_there()
        if job["up"] and not there:
            self.reclaims += 1
            job["up"] = False
            if not self.recovers_itself:
                job["end"] = {"signal": 9, "evidence": {"instance_gone": True}}
                return
        if job["stop_at"] is not None and self.now >= job["stop_at"]:
            if job["up"]:
                self._save(job, job["done_s"])  # it was asked, and had the time
            job["end"] = {"exit_code": 75} if job["up"] else {"evidence": {"stopped_before_start": True}}
            return
        if not job["up"]:
            job |= {"up": there, "starting_s": self._start_s, "done_s": self._saved_s}
            return
        job["uptime_s"] += seconds
        self.paid_s[job["kind"]] += seconds
        working_s = max(0.0, seconds - job["starting_s"])
        job["starting_s"] = max(0.0, job["starting_s"] - seconds)
        job["done_s"] += working_s
        if job["done_s"] >= self._work_s:
            self._save(job, self._work_s)
            self.finished_at, job["end"] = self.now, {"exit_code": 0}
        elif job["done_s"] - self._saved_s >= self._save_every_s:
            self._save(job, job["done_s"])

    def _save(self, job: dict[str, Any], done_s: float) -> None:
        step = int(self._num_steps * done_s / self._work_s)
        self._saved_s = step / self._num_steps * self._work_s  # no more than a resume finds
        folder = Path(job["job"].run_dir) / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        new = folder / f"step-{step:06d}"
        new.mkdir(parents=True)
        (new / "model.pt").write_bytes(b"1234")
        (new / "manifest.json").write_text(json.dumps({"step": step, "files": {"model.pt": {"bytes": 4}}}))
