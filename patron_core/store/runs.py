"""Runs: making them, and the one door through which their state changes. Finding them (finding.py) is re-exported."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from patron_core.errors import Conflict, InternalError, NotFound
from patron_core.money import check_usd_micros
from patron_core.states import LEGAL, TERMINAL, EndReason, RunState
from patron_core.store import alerts
from patron_core.store.engine import Store, dumps, insert_new, writing
from patron_core.store.finding import (
    Filters,
    active_runs,
    by_id,
    events,
    events_since,
    find_by_key,
    get_run,
    list_facts,
    list_runs,
    list_summaries,
    projects,
    typed_run,
    values_of,
)
from patron_core.store.names import check_key, check_names
from patron_core.store.records import Run
from patron_core.store.schema import run_events, runs

__all__ = [
    "Filters",
    "IllegalTransition",
    "StaleState",
    "active_runs",
    "add_event",
    "adopt",
    "create_run",
    "events",
    "events_since",
    "find_by_key",
    "get_run",
    "list_facts",
    "list_runs",
    "list_summaries",
    "lock",
    "new_id",
    "projects",
    "set_fields",
    "transition",
]
_FIELDS = frozenset({"estimate", "dryrun", "result", "stop_requested", "failures", "max_usd_micros"})
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


class IllegalTransition(InternalError):
    """No run may ever go from the one state to the other: the caller has a bug."""

    code = "illegal_transition"


class StaleState(Conflict):
    """Somebody else changed the run's state first. `actual` is what it is now."""

    code = "stale_state"

    def __init__(self, message: str, *, next: str, actual: RunState):
        super().__init__(message, next=next)
        self.actual = actual


def new_id(letter: str = "r") -> str:
    """A letter and ten characters of base32: 50 random bits."""
    return letter + "".join(secrets.choice(_ALPHABET) for _ in range(10))


def create_run(
    store: Store | Connection,
    *,
    project: str,
    name: str,
    workload: str,
    spec: dict[str, Any],
    spec_hash: str,
    executor: str,
    run_dir: str | Callable[[str], str],
    actor: str,
    key: str | None,
    now: float,
    host_id: str | None = None,
    max_usd_micros: int | None = None,
    estimate: dict[str, Any] | None = None,
    terms: dict[str, Any] | None = None,
) -> Run:
    """A new draft, or the run that this key made before. The same key with another question raises Conflict."""
    check_names(project=project, name=name, actor=actor)
    if max_usd_micros is not None:
        check_usd_micros(max_usd_micros, "max_usd_micros")
    if key is not None:
        check_key(key)
    asked = {"spec_hash": spec_hash, "name": name, "max_usd_micros": max_usd_micros, "executor": executor}
    asked = json.loads(dumps(asked | {"target": (estimate or {}).get("target"), **(terms or {})}))
    run_id = new_id()
    values = {
        "id": run_id,
        "project": project,
        "name": name,
        "workload": workload,
        "spec": spec,
        "spec_hash": spec_hash,
        "executor": executor,
        "run_dir": run_dir if isinstance(run_dir, str) else run_dir(run_id),
        "actor": actor,
        "host_id": host_id,
        "key": key,
        "max_usd_micros": max_usd_micros,
        "estimate": estimate,
        "state": RunState.DRAFT.value,
        "detail": "",
        "failures": 0,
        "created_at": now,
        "updated_at": now,
    }
    with writing(store) as conn:
        if insert_new(conn, runs, values, unique=["project", "key"]):
            add_event(conn, run_id, kind="created", actor=actor, now=now, detail={"asked": asked})
            return by_id(conn, run_id)
        row = conn.execute(sa.select(runs).where(runs.c.project == project, runs.c.key == key)).one()
        _check_same(conn, row, asked)
        return typed_run(row)


def _check_same(conn: Connection, row: Row[Any], asked: dict[str, Any]) -> None:
    """Raises Conflict unless the run was made from this very question."""
    created = next((event.detail for event in events(conn, row.id) if event.kind == "created"), {})
    # made before questions were written down: its row says as much of it as is known
    was = created.get("asked") or {"spec_hash": row.spec_hash, "max_usd_micros": row.max_usd_micros}
    differs = [name for name in asked if name in was and was[name] != asked[name]]
    if differs:
        said = ", ".join(f"{name} {was[name]}, now {asked[name]}" for name in differs)
        raise Conflict(
            f"key {row.key!r} of project {row.project!r} already made run {row.id} from another question: {said}",
            next="use a new key for a new run, or ask the old question to get the old run",
        )


def transition(
    conn: Connection,
    run_id: str,
    *,
    old: RunState,
    new: RunState,
    reason: EndReason | None = None,
    actor: str,
    now: float,
    detail: str = "",
    evidence: dict[str, Any] | None = None,
) -> Run:
    """The one door: from `old` to `new`, or IllegalTransition, or StaleState when it is no longer `old`.

    Arriving forgets a stop request that is now fulfilled: 'pause' where nothing runs any more, either at the end.
    """
    if new not in LEGAL[old]:
        allowed = ", ".join(sorted(LEGAL[old])) or "nothing"
        raise IllegalTransition(f"run {run_id}: {old} -> {new}; from {old}: {allowed}", next="see patron_core.states")
    values: dict[str, Any] = {"state": new.value, "reason": reason.value if reason else None, "detail": detail}
    if new in TERMINAL:
        values["stop_requested"] = None
    elif new in (RunState.PAUSED, RunState.FUNDED, RunState.AWAITING_FUNDING, RunState.DRAFT):  # no attempt lives
        values["stop_requested"] = sa.case((runs.c.stop_requested == "pause", None), else_=runs.c.stop_requested)
    guarded = sa.update(runs).where(runs.c.id == run_id, runs.c.state == old.value)
    if conn.execute(guarded.values(**values, updated_at=now)).rowcount != 1:
        actual = by_id(conn, run_id).state
        raise StaleState(
            f"run {run_id} is {actual}, no longer {old}; it did not become {new}",
            next="look at the run again and decide anew",
            actual=actual,
        )
    said: dict[str, Any] = {"detail": detail} if detail else {}
    said |= {"evidence": evidence} if evidence else {}
    _record(conn, run_id, kind="transition", actor=actor, now=now, detail=said, old=old, new=new, reason=reason)
    return by_id(conn, run_id)


def set_fields(conn: Connection, run_id: str, *, now: float, **fields: Any) -> Run:
    """Change one or more of estimate, dryrun, result, stop_requested ('pause', 'cancel', None), failures,
    max_usd_micros."""
    unknown = sorted(set(fields) - _FIELDS)
    stop = fields.get("stop_requested")
    if unknown or not fields or stop not in (None, "pause", "cancel"):
        raise InternalError(
            f"set_fields({', '.join(f'{name}={value!r}' for name, value in fields.items())})",
            next=f"set one or more of: {', '.join(sorted(_FIELDS))}; stop_requested is 'pause', 'cancel' or None",
        )
    # a late stop request must not stick to a run that has ended
    alive = runs.c.state.not_in(values_of(TERMINAL)) if stop is not None else sa.true()
    changed = conn.execute(sa.update(runs).where(runs.c.id == run_id, alive).values(**fields, updated_at=now)).rowcount
    run = by_id(conn, run_id)
    if not changed:
        raise Conflict(f"run {run_id} has already {run.state}; there is nothing to {stop}", next="look at its result")
    return run


def amend(
    conn: Connection, run_id: str, *, spec: dict[str, Any], spec_hash: str, dryrun: dict[str, Any], now: float
) -> Run:
    """Replace the spec of a run that awaits funding, together with the proof of it. Later a spec is frozen."""
    waiting = (runs.c.id == run_id) & (runs.c.state == RunState.AWAITING_FUNDING.value)
    values = {"spec": spec, "spec_hash": spec_hash, "dryrun": dryrun, "updated_at": now}
    if conn.execute(sa.update(runs).where(waiting).values(**values)).rowcount != 1:
        run = by_id(conn, run_id)
        raise StaleState(
            f"run {run_id} is {run.state}; its spec can change only while it awaits funding",
            next="plan a new run",
            actual=run.state,
        )
    return by_id(conn, run_id)


def adopt(conn: Connection, run_id: str, *, host_id: str) -> bool:
    """Give a local run from before there were hosts to one. False where it is somebody's."""
    nobodys = (runs.c.id == run_id) & runs.c.host_id.is_(None)
    return conn.execute(sa.update(runs).where(nobodys).values(host_id=host_id)).rowcount == 1


def add_event(
    conn: Connection, run_id: str, *, kind: str, actor: str, now: float, detail: dict[str, Any] | None = None
) -> None:
    _record(conn, run_id, kind=kind, actor=actor, now=now, detail=detail or {})


def lock(conn: Connection, run_id: str) -> Run:
    """The run as it is now. Until the transaction ends nobody else changes it or its money.

    What was read before the lock may be outdated: decide by what this returns. (SQLite's writer is alone anyway.)
    """
    row = conn.execute(sa.select(runs).where(runs.c.id == run_id).with_for_update(key_share=True)).first()
    if row is None:
        raise NotFound(f"there is no run {run_id!r}", next="patron lab")
    return typed_run(row)


def _record(
    conn: Connection,
    run_id: str,
    *,
    kind: str,
    actor: str,
    now: float,
    detail: dict[str, Any],
    old: RunState | None = None,
    new: RunState | None = None,
    reason: EndReason | None = None,
) -> None:
    values = {
        "run_id": run_id,
        "time": now,
        "actor": actor,
        "kind": kind,
        "old": old,
        "new": new,
        "reason": reason,
        "detail": detail,
    }
    conn.execute(sa.insert(run_events).values(**values))
    alerts.tell(conn, run_id, kind=kind, new=new, reason=reason, detail=detail, now=now)
