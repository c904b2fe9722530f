"""Which runs a tracker lacks something of. Reads the store only, so that a supervisor can ask, too."""

from __future__ import annotations

from patron_core.states import ACTIVE, TERMINAL, RunState
from patron_core.store import Store, mirrors, runs
from patron_core.store.records import Run

RECENT_RESTING = 50  # how many runs that rest are checked for a mirror that is not complete yet


def due(store: Store) -> list[Run]:
    """Runs that may have news, or that rest and are not mirrored in full; those that live first."""
    live = [run for run in runs.active_runs(store) if run.state in ACTIVE]
    resting = runs.list_runs(store, states=[*TERMINAL, RunState.PAUSED], limit=RECENT_RESTING)
    return [*live, *(run for run in resting if not is_mirrored(store, run))]


def is_mirrored(store: Store, run: Run) -> bool:
    if run.result is None:
        return True  # never trained: there is nothing to mirror
    mirror = mirrors.get(store, run.id)
    return mirror is not None and bool(mirror.position.get("finished"))
