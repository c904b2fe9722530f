"""A world to supervise: a store, a scripted machine, a clock. Time is what the test says."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patron_core import verbs
from patron_core.executors.base import Job
from patron_core.executors.fake import FakeExecutor, Script
from patron_core.lifecycle.supervisor import Supervisor, Tick
from patron_core.states import EndReason, RunState
from patron_core.store import Run, Store, attempts, ledger, runs

HOURLY = 3_600_000  # a thousandth of a dollar a second
SECOND = 1_000
START = 1_000_000.0
ENDED = Script(run_s=100)
KILLED = Script(run_s=40, exit_code=None, signal=signal.SIGKILL.value)


@dataclass
class World:
    """A store, a scripted machine, a clock and a supervisor."""

    store: Store
    machine: FakeExecutor
    now: float = START

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(store=self.store, executor_named=lambda name: self.machine)

    def tick(self, seconds: float = 0.0) -> Tick:
        self.now += seconds
        self.machine.advance(seconds)
        return self.supervisor.tick(now=self.now)

    def run_for(self, seconds: float, step: float = 5.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.tick(step)

    def funded(self, held_s: float = 1000.0, **spec: Any) -> Run:
        """A run whose money is held, without the dryrun that would prove it."""
        values = {"depth": 1, "vocab_size": 512, "sequence_len": 64, "num_steps": 10, "batch_tokens": 64} | spec
        with self.store.begin() as conn:
            ledger.deposit(conn, project="lab", usd_micros=10_000_000, key=f"d{self.now}", actor="ada", now=self.now)
        run = verbs.plan(self.store, spec=values, actor="ada", now=self.now)
        with self.store.begin() as conn:
            ledger.hold(conn, run, round(held_s * SECOND), key=f"hold:{run.id}", actor="ada", now=self.now)
            runs.set_fields(conn, run.id, now=self.now, dryrun={"environment_hash": "e"})
            for old, new in (
                (RunState.DRAFT, RunState.DRYRUN),
                (RunState.DRYRUN, RunState.AWAITING_FUNDING),
                (RunState.AWAITING_FUNDING, RunState.FUNDED),
            ):
                run = runs.transition(conn, run.id, old=old, new=new, actor="ada", now=self.now)
        return run

    def launched(self, held_s: float = 1000.0, **spec: Any) -> Run:
        run = self.funded(held_s, **spec)
        return verbs.launch(self.store, run.id, actor="ada", now=self.now)

    def state(self, run: Run) -> RunState:
        return runs.get_run(self.store, run.id).state

    def reason(self, run: Run) -> EndReason | None:
        return runs.get_run(self.store, run.id).reason

    def charged(self, run: Run) -> int:
        return ledger.run_money(self.store, run.id).charged_usd_micros

    def held(self, run: Run) -> int:
        return ledger.run_money(self.store, run.id).held_usd_micros

    def machine_s(self, run: Run) -> float:
        """Seconds of machine that the run's attempts really had so far, whatever was charged."""
        handles = [handle for a in attempts.for_run(self.store, run.id) if (handle := self.machine.find(a.id))]
        return sum(self.machine.poll(handle).uptime_s or 0.0 for handle in handles)


def checkpoint(step: int) -> Callable[[Job], None]:
    """What a trainer leaves: a whole checkpoint of `step`."""

    def write(job: Job) -> None:
        folder = Path(job.run_dir) / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.pt").write_bytes(b"1234")
        (folder / "manifest.json").write_text(json.dumps({"step": step, "files": {"model.pt": {"bytes": 4}}}))

    return write
