"""The process that brings MLflow up to date: `python -m patron_core.mirror.process`, started by who finds it missing.

It is a process of its own since MLflow takes 200 MB and seconds of a core, and may hang; no supervision waits for it.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from patron_core import settings
from patron_core.errors import PatronError
from patron_core.lifecycle import post
from patron_core.mirror import tracking
from patron_core.mirror.due import RESTING, due
from patron_core.money import to_usd
from patron_core.rundir.rundir import RunDir
from patron_core.states import ACTIVE
from patron_core.store import Store, ledger, mirrors
from patron_core.store.patience import jittered_s
from patron_core.store.records import Run

log = logging.getLogger("patron.mirror")

EVERY_S = 3.0
RUNS_AT_ONCE = 8
TRIES = 20  # of a run that rests, minutes in all; whoever opens the lab later starts anew


@dataclass
class Mirroring:
    """Rounds over the runs that are due. One that fails is left alone for a while, and does not hold up the others."""

    store: Store
    has_lab: Callable[[], bool] | None = None  # whether it has the lab's lease; called where a run is rented
    failures: Counter[str] = field(default_factory=Counter)  # in a row, by run
    retry_at: dict[str, float] = field(default_factory=dict)  # monotonic

    def due(self) -> list[Run]:
        """Without those that rest and have failed too often."""
        return [run for run in due(self.store, self.has_lab) if run.state in ACTIVE or self.failures[run.id] < TRIES]

    def round(self, *, now: float | None = None) -> list[str]:
        """Each run once, some side by side. Returns what went wrong, as sentences."""
        due = [run for run in self.due() if time.monotonic() >= self.retry_at.get(run.id, 0.0)]
        at = time.time() if now is None else now
        with ThreadPoolExecutor(at_once(), thread_name_prefix="mirror") as threads:
            found = list(threads.map(lambda run: mirror_run(self.store, run, now=at), due))
        errors: list[str] = []
        for run, error in zip(due, found, strict=True):
            if error is None:
                self.failures.pop(run.id, None)
                continue
            mirrors.tried(self.store, run.id, error=error.removeprefix(f"{run.id}: "))
            errors.append(error)
            self.failures[run.id] += 1
            self.retry_at[run.id] = time.monotonic() + jittered_s(self.failures[run.id])
        return errors


def at_once() -> int:
    """Runs side by side: a server takes them. A file has one writer, and MLflow's work is this process's: four at once
    took a third more CPU, and no less time."""
    return 1 if settings.tracking_uri().startswith("sqlite") else RUNS_AT_ONCE


def mirror_run(store: Store, run: Run, *, now: float) -> str | None:
    """One sync of one run, its money with it; one that rests is marked as done. Returns what went wrong."""
    money = ledger.run_money(store, run.id)
    extra = {
        "money/charged_usd": to_usd(money.charged_usd_micros),
        "money/held_usd": to_usd(money.held_usd_micros),
    }
    try:
        report = tracking.sync(store, run, now=now, extra=extra)
        if report.error is not None:
            return f"{run.id}: mlflow: {report.error}"
        if not report.behind:
            mirrors.tried(store, run.id, error=None)
        if run.state in RESTING and not RunDir(run.run_dir).exists():  # deleted, or on a disk that is not here now
            return f"{run.id}: mirror: the run directory {run.run_dir} is missing"
        if run.state in RESTING and not report.behind and report.artifact_error is None:
            with store.begin() as conn:
                mirrors.at_rest(conn, run, now=now)
    except PatronError as fault:
        return f"{run.id}: mirror: {fault.message}"
    except Exception as fault:  # a poll boundary: one broken run must not stop the others
        log.exception("%s: unexpected", run.id)
        return f"{run.id}: mirror: {type(fault).__name__}: {fault}"
    return None


def run_loop(watch: post.Watch) -> None:
    """Round after round until every run that rests is mirrored, whatever fails."""
    mirroring = Mirroring(watch.store, watch.keep_lab)

    def work() -> bool:
        for error in mirroring.round():
            log.warning("%s", error)
        return bool(mirroring.due())

    post.serve(watch, work, is_needed=lambda: bool(due(watch.store)), every_s=EVERY_S)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m patron_core.mirror.process", description=__doc__)
    post.add_lock_flag(parser)
    watch = post.begin(post.MIRROR, parser.parse_args().lock_fd)
    if watch is not None:
        run_loop(watch)


if __name__ == "__main__":
    main()
