"""The supervisor: load -> observe -> decide -> apply, for every run that may be burning money.

Any number of processes may call `tick`; a lease lets one act at a time. `python -m patron_core.lifecycle.supervisor`
ticks until nothing is left to do, so that a run outlives the notebook that started it; `ensure_running` starts that in
the background. A supervisor that dies loses nothing: everything it knows is in the store.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from patron_core import settings
from patron_core.errors import Conflict, PatronError
from patron_core.executors import get_executor
from patron_core.executors.base import Executor
from patron_core.lifecycle.apply import apply
from patron_core.lifecycle.decide import ActionKind, decide
from patron_core.lifecycle.observe import look
from patron_core.mirror.rounds import Rounds
from patron_core.store import Store, leases, runs
from patron_core.store.records import Run

log = logging.getLogger("patron.supervisor")

LEASE = "supervisor"
LEASE_TTL_S = 60.0
LOOP_LEASE = "supervisor-loop"
LOOP_TTL_S = 30.0
START_WITHIN_S = 10.0  # from starting the background process to its lease; a second one would only go home again
TICK_EVERY_S = 1.0
MIRROR_EVERY_S = 3.0
ACTIONS_A_TICK = 4  # a submit is followed by a look at once; more than a few in a row would starve other runs

_started_at: dict[str, float] = {}  # by PATRON_HOME, monotonic


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What one tick did. `acted` is False when another process holds the lease."""

    acted: bool
    actions: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    live: int = 0  # runs that still need a supervisor


@dataclass(kw_only=True)
class Supervisor:
    """One process at work: who it is, and on what."""

    store: Store
    executor_named: Callable[[str], Executor] = get_executor
    mirror: bool = True
    holder: str = field(default_factory=lambda: f"{os.getpid()}-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self._rounds = Rounds(store=self.store)

    def tick(self, *, now: float | None = None) -> Tick:
        """Look at every live run once and do what is due."""
        now = time.time() if now is None else now
        if not leases.acquire(self.store, LEASE, holder=self.holder, ttl_s=LEASE_TTL_S, now=now):
            return Tick(acted=False, live=len(runs.active_runs(self.store)))
        actions: list[str] = []
        errors: list[str] = []
        try:
            for run in runs.active_runs(self.store):
                self._advance(run, actions, errors, now=now)
            if self.mirror:
                errors += self.mirror_runs(now=now)
        finally:
            leases.release(self.store, LEASE, holder=self.holder)
        return Tick(acted=True, actions=tuple(actions), errors=tuple(errors), live=len(runs.active_runs(self.store)))

    def _advance(self, run: Run, actions: list[str], errors: list[str], *, now: float) -> None:
        """One run. What goes wrong here is this run's, and is reported; the others are looked at all the same."""
        try:
            executor = self.executor_named(run.executor)
            for _ in range(ACTIONS_A_TICK):
                scene = look(self.store, run.id, executor, now=now)
                action = decide(scene.situation)
                apply(self.store, scene, action, executor, now=now)
                if action.kind is ActionKind.WAIT:
                    return
                actions.append(f"{run.id}: {action.kind.value}: {action.why}")
                log.info("%s: %s: %s", run.id, action.kind.value, action.why)
        except Conflict as error:
            log.info("%s: %s", run.id, error.message)  # somebody else was first; the next tick sees what they did
        except PatronError as error:
            errors.append(f"{run.id}: {error.message}")
            log.warning("%s: %s", run.id, error.message)
        except Exception as error:  # a poll boundary: one broken run must not stop the others
            errors.append(f"{run.id}: {type(error).__name__}: {error}")
            log.exception("%s: unexpected", run.id)

    def mirror_runs(self, *, now: float) -> list[str]:
        """Bring MLflow up to date with every run that may have news. Returns what went wrong, as sentences."""
        return self._rounds.go(now=now)


def tick(store: Store, *, now: float | None = None, mirror: bool = False) -> Tick:
    """One tick of a passer-by, such as a notebook that watches. Leaves MLflow to the supervisor unless asked."""
    return Supervisor(store=store, mirror=mirror).tick(now=now)


def keep_going(store: Store) -> None:
    """See that somebody supervises: the background process, or this one for as long as there is none.

    Where one is at it this only looks at its lease: on a small machine every tick is taken from the training.
    """
    if ensure_running(store):
        tick(store)


def run_loop(store: Store, *, idle_ticks: int = 3) -> None:
    """Tick until nothing is live for `idle_ticks` ticks. Returns at once if another loop is already at it."""
    supervisor = Supervisor(store=store, mirror=False)
    done = threading.Event()
    mirror = threading.Thread(target=_mirror_until, args=(supervisor, done), name="mirror")
    idle = 0
    try:
        while idle < idle_ticks:
            if not leases.acquire(store, LOOP_LEASE, holder=supervisor.holder, ttl_s=LOOP_TTL_S, now=time.time()):
                return
            if not mirror.is_alive():
                mirror.start()
                threading.Thread(target=_end_orphans, args=(store,), name="orphans", daemon=True).start()
            seen = supervisor.tick()
            idle = 0 if seen.live or (seen.errors and idle < 1) else idle + 1
            time.sleep(TICK_EVERY_S)
    finally:
        done.set()
        if mirror.is_alive():
            mirror.join()
        leases.release(store, LOOP_LEASE, holder=supervisor.holder)


def _end_orphans(store: Store) -> None:
    """What an earlier life of this lab left running at SkyPilot; beside the ticks, since a server may not answer."""
    from patron_core.lifecycle import orphans

    try:
        if orphans.uses_sky(store):
            for orphan in orphans.collect(store):
                log.warning("ended an orphan: %s", orphan.sentence)
    except PatronError as error:
        log.warning("orphans: %s; next: %s", error.message, error.next)
    except Exception:  # a poll boundary
        log.exception("orphans: unexpected")


def _mirror_until(supervisor: Supervisor, done: threading.Event) -> None:
    """Mirror now and then, and once more at the end; beside the ticks, which must not wait for a slow tracker."""
    last = False
    while not last:
        last = done.wait(MIRROR_EVERY_S)
        try:
            for error in supervisor.mirror_runs(now=time.time()):
                log.warning("%s", error)
        except Exception:  # a poll boundary: the record is in events/, and the next look goes on from there
            log.exception("mirror: unexpected")


def ensure_running(store: Store) -> bool:
    """Start the background supervisor unless one is at it. True while there is none yet."""
    if leases.current(store, LOOP_LEASE, now=time.time()) is not None:
        return False
    folder = settings.home()
    if time.monotonic() - _started_at.get(str(folder), float("-inf")) < START_WITHIN_S:
        return True
    _started_at[str(folder)] = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "supervisor.log").open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "patron_core.lifecycle.supervisor"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
        )
    return True


def stand_back() -> None:
    """Let the training have the cores. Starting MLflow takes seconds of one, and each thread of a step waits for all.

    Linux shares cores between sessions first, so that the niceness of a process counts only inside its own session;
    each session has one of its own. Jobs have sessions of their own, so this one's does not hold them back.
    """
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


def main() -> None:
    stand_back()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    run_loop(Store.open())


if __name__ == "__main__":
    main()
