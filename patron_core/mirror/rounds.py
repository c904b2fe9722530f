"""One round of the mirror: every run that may have news, each on its own, so that none keeps the others from MLflow."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from patron_core.errors import PatronError
from patron_core.mirror import tracking
from patron_core.money import to_usd
from patron_core.rundir.rundir import RunDir
from patron_core.states import ACTIVE, RunState
from patron_core.store import Store, ledger, mirrors, runs
from patron_core.store.records import Run

log = logging.getLogger("patron.mirror")

RESTING = frozenset(RunState) - ACTIVE
# until a run is tried again, doubled each time: one whose tracker, or whose directory, does not answer
RETRY_S, TRACKER_RETRY_AT_MOST_S, RETRY_AT_MOST_S = 3.0, 15.0, 600.0


@dataclass(kw_only=True)
class Rounds:
    """What one process remembers between its rounds."""

    store: Store
    _waits_s: dict[str, float] = field(default_factory=dict)  # by run
    _due_at: dict[str, float] = field(default_factory=dict)  # by run, monotonic

    def go(self, *, now: float) -> list[str]:
        """Bring MLflow up to date. Returns what went wrong, as sentences; the record is in events/ and stays."""
        live = [run for run in runs.active_runs(self.store) if run.state in ACTIVE]
        resting = mirrors.unrested(self.store, RESTING)
        return [
            error
            for run in (*live, *resting)
            if self._is_due(run.id) and (error := self._one(run, now=now)) is not None
        ]

    def _one(self, run: Run, *, now: float) -> str | None:
        """One run. What goes wrong here is this run's, and is reported; the others are mirrored all the same."""
        try:
            report = tracking.sync(self.store, run, now=now, extra=_figures(self.store, run))
            missing = not RunDir(run.run_dir).exists()
            if missing or report.error is not None:
                self._wait(run.id, at_most_s=RETRY_AT_MOST_S if missing else TRACKER_RETRY_AT_MOST_S)
                return None if report.error is None else f"{run.id}: mlflow: {report.error}"
            if run.state in RESTING and not report.behind and report.artifact_error is None:
                with self.store.begin() as conn:
                    mirrors.at_rest(conn, run, now=now)
        except PatronError as error:
            self._wait(run.id)
            return f"{run.id}: mirror: {error.message}"
        except Exception as error:  # a poll boundary: one broken run must not stop the others
            self._wait(run.id)
            log.exception("mirror of %s: unexpected", run.id)
            return f"{run.id}: mirror: {type(error).__name__}: {error}"
        self._waits_s.pop(run.id, None)
        self._due_at.pop(run.id, None)
        return None

    def _is_due(self, run_id: str) -> bool:
        return time.monotonic() >= self._due_at.get(run_id, 0.0)

    def _wait(self, run_id: str, *, at_most_s: float = RETRY_AT_MOST_S) -> None:
        wait_s = min(at_most_s, 2 * self._waits_s.get(run_id, RETRY_S / 2))
        self._waits_s[run_id] = wait_s
        self._due_at[run_id] = time.monotonic() + wait_s


def _figures(store: Store, run: Run) -> dict[str, float]:
    """What the events don't hold."""
    money = ledger.run_money(store, run.id)
    return {
        "money/charged_usd": to_usd(money.charged_usd_micros),
        "money/held_usd": to_usd(money.held_usd_micros),
    }
