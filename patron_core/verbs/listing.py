"""Runs in short, a page at a time: by project, state, tags and words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from patron_core.states import RunState
from patron_core.store import Run, RunSummary, Store, runs
from patron_core.store import tags as run_tags


@dataclass(frozen=True, kw_only=True)
class Page:
    runs: list[RunSummary]  # newest first
    tags: dict[str, list[str]]  # of each
    cursor: int | None  # of the next page; None: this is the last

    def to_dict(self) -> dict[str, Any]:
        return {"runs": [run_summary(run) | {"tags": self.tags[run.id]} for run in self.runs], "cursor": self.cursor}


def list_runs(
    store: Store,
    *,
    project: str | None = None,
    states: Iterable[RunState] | None = None,
    tags: Iterable[str] | None = None,
    text: str | None = None,
    limit: int = 50,
    cursor: int = 0,
) -> Page:
    """Those that have all of `tags`, are in one of `states`, and have `text` in name, id or detail."""
    with store.read() as conn:
        ids = run_tags.run_ids(conn, tags) if tags else None
        found = runs.list_summaries(
            conn, project=project, states=states, ids=ids, text=text, limit=limit + 1, offset=cursor
        )
        more = cursor + limit if len(found) > limit else None
        return Page(runs=found[:limit], tags=run_tags.of_runs(conn, [run.id for run in found[:limit]]), cursor=more)


def run_summary(run: Run | RunSummary) -> dict[str, Any]:
    """What every list and answer says of a run."""
    return {
        "run": run.id,
        "name": run.name,
        "project": run.project,
        "state": run.state.value,
        "reason": run.reason.value if run.reason else None,
        "stop_requested": run.stop_requested,
        "actor": run.actor,
        "created_at": run.created_at,
        "updated_at": run.updated_at,
    }
