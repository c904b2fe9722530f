"""Finding runs: by id or name, in lists, those a supervisor must look at, and what happened to one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict, Unpack

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from patron_core.errors import NotFound
from patron_core.states import ACTIVE, TERMINAL, EndReason, RunState
from patron_core.store.engine import Store, reading
from patron_core.store.records import Run, RunEvent, RunFacts, RunSummary
from patron_core.store.schema import run_events, runs

_SUMMARY = [runs.c[name] for name in RunSummary.__dataclass_fields__]
_FIGURES = {  # of the JSON, as text: what is read there need not be a number
    "depth": runs.c.spec["depth"],
    "corpus": runs.c.spec["data"],
    "device": runs.c.estimate["device"],
    "num_steps": runs.c.estimate["num_steps"],
    "step": runs.c.result["step"],
    "val_bpb": runs.c.result["val_bpb"],
}
_STATES: dict[str | None, RunState | None] = {None: None, **{state.value: state for state in RunState}}
_REASONS: dict[str | None, EndReason | None] = {None: None, **{reason.value: reason for reason in EndReason}}
_SHOWN_CANDIDATES = 5


class Filters(TypedDict, total=False):
    project: str | None
    ids: Iterable[str] | None
    key_starts: str | None  # the beginning of the key that made it
    states: Iterable[RunState] | None
    limit: int | None  # 100 unless given; None is all
    offset: int
    text: str | None  # looked for in name, id and detail


def get_run(store: Store | Connection, run_id: str) -> Run:
    """By id, by exact name, or by the beginning of an id, where that names one run. Raises NotFound."""
    with reading(store) as conn:
        row = conn.execute(sa.select(runs).where(runs.c.id == run_id)).first()
        if row is not None:
            return typed_run(row)
        starts = runs.c.id.startswith(run_id, autoescape=True) if len(run_id) > 1 else sa.false()
        for matches in (runs.c.name == run_id, starts):
            query = sa.select(runs).where(matches).order_by(runs.c.created_at.desc(), runs.c.id.desc())
            found = conn.execute(query.limit(_SHOWN_CANDIDATES + 1)).all()
            if len(found) == 1:
                return typed_run(found[0])
            if found:
                shown = ", ".join(f"{each.id} ({each.project}, {each.state})" for each in found[:_SHOWN_CANDIDATES])
                more = " and more" if len(found) > _SHOWN_CANDIDATES else ""
                raise NotFound(f"{run_id!r} names several runs: {shown}{more}", next=f"name one by id: {found[0].id}")
    raise NotFound(f"there is no run {run_id!r}, neither as an id nor as a name", next="patron lab")


def find_by_key(store: Store | Connection, *, project: str, key: str) -> Run | None:
    """The run that this key made, if it made one."""
    with reading(store) as conn:
        row = conn.execute(sa.select(runs).where(runs.c.project == project, runs.c.key == key)).first()
    return None if row is None else typed_run(row)


def list_runs(store: Store | Connection, **filters: Unpack[Filters]) -> list[Run]:
    """Newest first, with everything. For long lists take list_summaries."""
    with reading(store) as conn:
        return [typed_run(row) for row in conn.execute(_listing([*runs.c], filters))]


def list_summaries(store: Store | Connection, **filters: Unpack[Filters]) -> list[RunSummary]:
    """Like list_runs, without the JSON: ten thousand at once are fine."""
    with reading(store) as conn:
        return [RunSummary(**_values_by_name(row)) for row in conn.execute(_listing(_SUMMARY, filters)).all()]


def list_facts(store: Store | Connection, **filters: Unpack[Filters]) -> list[RunFacts]:
    """Like list_summaries, with the figures that a table of runs shows."""
    figures = [path.as_string().label(name) for name, path in _FIGURES.items()]
    with reading(store) as conn:
        rows = conn.execute(_listing([*_SUMMARY, runs.c.run_dir, *figures], filters)).all()
    found = []
    for row in rows:
        values = _values_by_name(row)
        values |= {name: values[name] if isinstance(values[name], str) else "" for name in ("corpus", "device")}
        values |= {name: _whole(values[name]) for name in ("depth", "num_steps", "step")}
        found.append(RunFacts(**values | {"val_bpb": _number(values["val_bpb"])}))
    return found


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _whole(value: Any) -> int | None:
    found = _number(value)
    return None if found is None else int(found)


def active_runs(store: Store | Connection) -> list[Run]:
    """What a supervisor must look at: a machine may be burning money, or somebody asked for a stop. Oldest first."""
    asked = runs.c.stop_requested.is_not(None) & runs.c.state.not_in(values_of(TERMINAL))
    query = sa.select(runs).where(runs.c.state.in_(values_of(ACTIVE)) | asked).order_by(runs.c.created_at, runs.c.id)
    with reading(store) as conn:
        return [typed_run(row) for row in conn.execute(query)]


def projects(store: Store | Connection) -> dict[str, int]:
    """Every project that has runs, by name, with how many."""
    query = sa.select(runs.c.project, sa.func.count()).group_by(runs.c.project).order_by(runs.c.project)
    with reading(store) as conn:
        return {row[0]: row[1] for row in conn.execute(query)}


def events(store: Store | Connection, run_id: str) -> list[RunEvent]:
    """Oldest first."""
    query = sa.select(run_events).where(run_events.c.run_id == run_id).order_by(run_events.c.id)
    with reading(store) as conn:
        return [_event(row) for row in conn.execute(query)]


def events_since(
    store: Store | Connection, after: int, *, run_id: str | None = None, project: str | None = None, limit: int
) -> list[RunEvent]:
    """What was written after the event of that id, oldest first: of a run, a project, or all."""
    query = sa.select(run_events).where(run_events.c.id > after).order_by(run_events.c.id).limit(limit)
    if run_id is not None:
        query = query.where(run_events.c.run_id == run_id)
    if project is not None:
        query = query.where(run_events.c.run_id.in_(sa.select(runs.c.id).where(runs.c.project == project)))
    with reading(store) as conn:
        return [_event(row) for row in conn.execute(query)]


def _listing(columns: Sequence[Any], filters: Filters) -> sa.Select[Any]:
    query = sa.select(*columns).order_by(runs.c.created_at.desc(), runs.c.id.desc())
    query = query.limit(filters.get("limit", 100)).offset(filters.get("offset", 0))
    project, states, text = filters.get("project"), filters.get("states"), filters.get("text")
    ids = filters.get("ids")
    if key_starts := filters.get("key_starts"):
        query = query.where(runs.c.key.startswith(key_starts, autoescape=True))
    if ids is not None:
        query = query.where(runs.c.id.in_(list(ids)))
    if project is not None:
        query = query.where(runs.c.project == project)
    if states is not None:
        query = query.where(runs.c.state.in_(values_of(states)))
    if text:
        sought = (runs.c.name, runs.c.id, runs.c.detail)
        query = query.where(sa.or_(*(column.icontains(text, autoescape=True) for column in sought)))
    return query


def by_id(conn: Connection, run_id: str) -> Run:
    row = conn.execute(sa.select(runs).where(runs.c.id == run_id)).first()
    if row is None:
        raise NotFound(f"there is no run {run_id!r}", next="patron lab")
    return typed_run(row)


def values_of(states: Iterable[RunState]) -> list[str]:
    return sorted(state.value for state in states)


def _values_by_name(row: Row[Any]) -> dict[str, Any]:
    values = dict(zip(row._fields, row, strict=True))  # row._mapping says the same at several times the cost
    values["state"] = _STATES[values["state"]]
    values["reason"] = _REASONS[values["reason"]]
    return values


def typed_run(row: Row[Any]) -> Run:
    return Run(**_values_by_name(row))


def _event(row: Row[Any]) -> RunEvent:
    old, new, reason = _STATES[row.old], _STATES[row.new], _REASONS[row.reason]
    return RunEvent(**{**row._mapping, "old": old, "new": new, "reason": reason})
