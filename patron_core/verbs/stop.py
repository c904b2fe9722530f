"""The kill switch: everything stops, with a checkpoint where there is something to save."""

from __future__ import annotations

from typing import Any

from patron_core.errors import PatronError
from patron_core.states import RunState
from patron_core.store import Store, allowances, runs
from patron_core.verbs.access import asks
from patron_core.verbs.control import cancel, pause

_LAUNCHED = frozenset({RunState.LAUNCHING, RunState.RUNNING, RunState.RECOVERING})


@asks("run")
def stop_all(store: Store, *, token: str | None = None, project: str | None = None, actor: str) -> dict[str, Any]:
    """Pause every launched run and cancel every dryrun: of the lab, a project, or those that a token holds money for.

    Who has a token stops what it holds money for. Returns what was stopped, and what could not be, with why.
    """
    if store.token is not None and not store.token.is_person:
        token = store.token.name
    with store.read() as conn:
        found = runs.active_runs(conn)
        mine = allowances.holds(conn, token) if token else None
    stopped, failed = [], {}
    for run in found:
        if (project is not None and run.project != project) or (mine is not None and run.id not in mine):
            continue
        try:
            (pause if run.state in _LAUNCHED else cancel)(store, run.id, actor=actor)
            stopped.append(run.id)
        except PatronError as error:
            failed[run.id] = error.message
    return {"stopped": stopped, "failed": failed, "next": "patron lab"}
