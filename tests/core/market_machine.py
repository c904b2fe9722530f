"""A machine that is two kinds with two prices: spot, there when a trace says so, and on demand, there always.

Its jobs work through `work_s` of a run, save a checkpoint each `save_every_s`, and say 75 when they are asked to stop.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripted import START, World

from patron_core import verbs
from patron_core.executors.base import Handle, Job, Observation, ObservedStatus
from patron_core.lifecycle import deadline
from patron_core.machines.target import Target
from patron_core.store import Run, Store, attempts, ledger, runs
from patron_core.store.records import Attempt

SPOT_HOURLY, ON_DEMAND_HOURLY = 1_200_000, 3_600_000
STOP_S = 5.0
CHANGE_S = 75.0  # what a stop is counted with
HOUR = 3600.0
STEPS = 1000


class MarketMachine:
    """`recovers_itself`: as SkyPilot does it, one job is given machine after machine. Time is what the test says."""

    name = "local"
    look_every_s = 0.0

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

    def expect(self, handles: Sequence[Handle]) -> None:
        pass

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


def quotes() -> tuple[dict[str, Any], dict[str, Any]]:
    def quote(spot: bool) -> dict[str, Any]:
        hourly = SPOT_HOURLY if spot else ON_DEMAND_HOURLY
        return {"usd_micros_per_hour": hourly, "spot": spot, "machine": {"spot": spot, "wait_s": 1800.0}}

    return quote(True), quote(False)


def estimate(work_s: float, start_s: float, finish_s: float, interval_s: float) -> dict[str, Any]:
    def sure(seconds: float) -> dict[str, float]:
        return {"low": seconds, "mid": seconds, "high": seconds}

    phases = {"provisioning": sure(start_s), "steps": sure(work_s)}
    return {"phases_s": phases, "finish_s": finish_s, "checkpoint_interval_s": interval_s, "num_steps": STEPS}


@dataclass
class Played:
    world: World
    machine: MarketMachine
    run: Run
    finish_at: float
    made: list[Attempt]

    @property
    def is_late(self) -> bool:
        return self.machine.finished_at is None or self.machine.finished_at > self.finish_at


def play(
    store: Store, number: int, trace: Sequence[bool], *, work_s: float = HOUR, finish_s: float = 2 * HOUR,
    start_s: float = 120.0, every_s: float = 300.0, tick_s: float, trace_step_s: float = 60.0,
    recovers_itself: bool = True,
) -> Played:  # fmt: skip
    """The real launch, supervisor and ledger on a trace of when spot was to be had, to the end of the run."""
    machine = MarketMachine(
        trace, trace_step_s=trace_step_s, work_s=work_s, start_s=start_s, save_every_s=every_s, num_steps=STEPS,
        recovers_itself=recovers_itself,
    )  # fmt: skip
    world = World(store=store, machine=machine, now=START + 1e6 * number)  # type: ignore[arg-type]
    run = world.funded(held_s=1.0)
    kept = estimate(work_s, start_s, finish_s, every_s)
    terms = deadline.terms_of(kept, stop_s=CHANGE_S, spot_price_share=SPOT_HOURLY / ON_DEMAND_HOURLY)
    needed = deadline.hold_usd_micros(terms, spot=SPOT_HOURLY, on_demand=ON_DEMAND_HOURLY, stop_s=CHANGE_S)
    with store.begin() as conn:
        ledger.deposit(conn, project="lab", usd_micros=needed, key=f"d{run.id}", actor="ada", now=1.0)
        ledger.hold(conn, run, needed, key=f"more:{run.id}", actor="ada", now=1.0)
        target = Target(executor="sky", device="H100", spot=True).to_dict()
        runs.set_fields(conn, run.id, now=1.0, estimate=kept | {"target": target})
    verbs.launch(store, run.id, actor="ada", now=world.now)
    while machine.finished_at is None and machine.now < 2 * finish_s:
        world.tick(tick_s)
    world.tick(1)
    world.tick(1)
    return Played(world, machine, run, finish_at=finish_s, made=attempts.for_run(store, run.id))
