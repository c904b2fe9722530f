"""A lab on a scripted machine: a store, a clock that the test sets, and a supervisor that looks when it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from patron_core import verbs
from patron_core.executors.base import Job
from patron_core.executors.fake import FakeExecutor
from patron_core.lifecycle.supervisor import Supervisor, Tick
from patron_core.states import EndReason, RunState
from patron_core.store import Run, Store, ledger, runs

HOURLY = 3_600_000  # a thousandth of a dollar a second
SECOND = 1_000
START = 1_000_000.0


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


@contextmanager
def scripted_world(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """At its end the books balance, and nothing was started twice."""
    monkeypatch.setenv("PATRON_LOCAL_USD_PER_HOUR", f"{HOURLY / 1e6:.2f}")
    found = World(store=store, machine=FakeExecutor(name="local"))
    yield found
    assert ledger.verify(store) == []
    assert all(count == 1 for count in found.machine.starts.values())


def checkpoint(step: int) -> Callable[[Job], None]:
    """What a trainer leaves: a whole checkpoint of `step`."""

    def write(job: Job) -> None:
        folder = Path(job.run_dir) / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.pt").write_bytes(b"1234")
        (folder / "manifest.json").write_text(json.dumps({"step": step, "files": {"model.pt": {"bytes": 4}}}))

    return write
