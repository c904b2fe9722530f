"""Which runs a tracker lacks something of. Reads the store only, so that a supervisor can ask, too."""

from __future__ import annotations

from patron_core.states import ACTIVE, RunState
from patron_core.store import Store, mirrors, runs
from patron_core.store.records import Run

RESTING = frozenset(RunState) - ACTIVE


def due(store: Store) -> list[Run]:
    """Runs that may have news, or that rest and are not mirrored as they are; those that live first."""
    live = [run for run in runs.active_runs(store) if run.state in ACTIVE]
    return [*live, *mirrors.unrested(store, RESTING)]
