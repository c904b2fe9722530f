"""What the lab's tests share: executor-level jobs, runs of the core, and patience."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import Lab

from patron_core import verbs
from patron_core.executors.base import Executor, Job
from patron_core.executors.skypilot import SkyExecutor
from patron_core.lifecycle.supervisor import Supervisor
from patron_core.states import RunState
from patron_core.store import Run, Store, attempts, ledger, runs

PATIENCE_S = 900.0  # on a busy machine
HOURLY = 3_600_000  # a thousandth of a dollar a second
SECOND = 1_000
# nothing here has a GPU, and a plan for one is not proven by anything else
TARGET = verbs.Target(executor="sky", device="cpu", spot=True, usd_micros_per_hour=HOURLY)
MACHINE = {"accelerator": "H100", "spot": True}


def until(holds: Callable[[], bool], what: str, every_s: float = 0.5) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(every_s)


class SkyWorld:
    """The lab, as the contract tests of executors (tests/core/test_executors.py) want a world to be."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder / name, name
        self.executor: Executor = SkyExecutor()

    def job(self, kind: str, key: str = "r1-train-1", *, deadline_s: float = 300, grace_s: float = 60) -> Job:
        from test_executors import _KINDS, _PRELUDE

        run_dir = self.folder / "run"
        run_dir.mkdir(parents=True, exist_ok=True)
        code = _PRELUDE.format(run_dir=run_dir) + _KINDS[kind]
        return Job(
            key=f"{self.name}-{key}",
            command=(sys.executable, "-S", "-c", code),
            run_dir=str(run_dir),
            env={"COLOUR": "blue"},
            deadline_s=deadline_s,
            grace_s=grace_s,
            machine=MACHINE,
        )

    def reopened(self) -> Executor:
        return SkyExecutor()

    def until(self, holds: Callable[[], bool]) -> None:
        until(holds, "the executor")

    def num_starts(self) -> int:
        starts = self.folder / "run" / "starts"
        return len(starts.read_text().splitlines()) if starts.exists() else 0


class Core:
    """A store and a supervisor that ticks in the background, as `python -m patron_core.lifecycle.supervisor` would."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self.store = Store.open()
        self.errors: list[str] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()
        verbs.deposit(self.store, usd_micros=100_000_000, key="first", actor="ada")

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self.store.close()

    def _tick(self) -> None:
        supervisor = Supervisor(store=self.store)
        while not self._done.wait(1.0):
            self.errors += supervisor.tick().errors

    def plan(self, name: str, spec: dict[str, Any], **changes: Any) -> Run:
        target = verbs.Target(**(TARGET.to_dict() | changes))
        return verbs.plan(self.store, spec=spec, name=name, target=target, actor="ada", key=name)

    def funded(self, name: str, spec: dict[str, Any], *, held_s: float = 3000, **changes: Any) -> Run:
        """A run that may be launched, without the dryrun that would prove it."""
        run = self.plan(name, spec, **changes)
        now = time.time()
        with self.store.begin() as conn:
            ledger.hold(conn, run, round(held_s * SECOND), key=f"hold:{run.id}", actor="ada", now=now)
            runs.set_fields(conn, run.id, now=now, dryrun={"price": TARGET.find_price().to_dict()})
            for old, new in (
                (RunState.DRAFT, RunState.DRYRUN),
                (RunState.DRYRUN, RunState.AWAITING_FUNDING),
                (RunState.AWAITING_FUNDING, RunState.FUNDED),
            ):
                runs.transition(conn, run.id, old=old, new=new, actor="ada", now=now)
        return self.run(run)

    def launched(self, name: str, spec: dict[str, Any], **changes: Any) -> Run:
        return verbs.launch(self.store, self.funded(name, spec, **changes).id, actor="ada")

    def launched_at(self, run: Run, price: dict[str, Any]) -> Run:
        """A funded run, launched at a price that no catalog has."""
        hourly = int(price["usd_micros_per_hour"])
        with self.store.begin() as conn:
            attempts.create(conn, run, kind="train", usd_micros_per_hour=hourly, price=price, now=time.time())
            return runs.transition(
                conn, run.id, old=RunState.FUNDED, new=RunState.LAUNCHING, actor="ada", now=time.time()
            )

    def run(self, run: Run) -> Run:
        return runs.get_run(self.store, run.id)

    def until(self, run: Run, *states: RunState) -> Run:
        """Until the run is in one of `states`; fails at once where it can come to none of them any more."""
        ends = {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, *states}
        until(lambda: self.run(run).state in ends, f"{run.name} to be {', '.join(states)}")
        seen = self.run(run)
        assert seen.state in states, (seen.state, seen.reason, verbs.view(self.store, run.id).to_dict(), self.errors)
        return seen

    def job_id(self, run: Run) -> int:
        """SkyPilot's id of the managed job that trains the run."""
        *_, last = [attempt for attempt in attempts.for_run(self.store, run.id) if attempt.kind == "train"]
        assert last.handle is not None
        return int(last.handle["job_id"])
