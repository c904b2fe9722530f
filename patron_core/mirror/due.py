"""Which runs a tracker lacks something of. Reads the store only, so that a supervisor can ask, too.

What a local run wrote lies on its machine, whose mirror copies it; rented runs are the lab's, as with supervision.
"""

from __future__ import annotations

from collections.abc import Callable

from patron_core.lifecycle import ownership, post
from patron_core.states import ACTIVE, RunState
from patron_core.store import Store, mirrors, runs
from patron_core.store.records import Run

RESTING = frozenset(RunState) - ACTIVE


def due(store: Store, has_lab: Callable[[], bool] | None = None) -> list[Run]:
    """Runs that may have news, or that rest and are not mirrored as they are; those that live first.

    Of this machine, and the lab's where it has its lease, or could have it.
    """
    live = [run for run in runs.active_runs(store) if run.state in ACTIVE]
    found = [*live, *mirrors.unrested(store, RESTING)]
    mine = {run.id for run in found if ownership.is_here(store, run)}
    shared = {run.id for run in found if not ownership.is_local(run) or run.host_id is None} - mine
    if shared and (post.is_free(store, post.MIRROR.name) if has_lab is None else has_lab()):
        mine |= shared
    return [run for run in found if run.id in mine]
