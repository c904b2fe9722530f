"""Holds above what a token may ask for alone: asked once, decided by a person with a word, used once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from patron_core.errors import Conflict, NotFound
from patron_core.store import runs, tokens
from patron_core.store.engine import Store, reading
from patron_core.store.schema import runs as runs_table
from patron_core.store.schema_of_access import approvals

Decision = Literal["approved", "refused"]
MAX_WORD_CHARS = 1000
_SELECTED = sa.select(approvals, runs_table.c.name.label("run_name")).join(
    runs_table, runs_table.c.id == approvals.c.run_id
)


@dataclass(frozen=True, kw_only=True)
class Approval:
    id: str
    run_id: str
    run_name: str
    token: str  # the name of who asked
    usd_micros: int
    state: str  # waiting, approved, refused, held
    word: str
    actor: str | None
    created_at: float
    decided_at: float | None

    def to_dict(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in Approval.__dataclass_fields__}
        found["approval"], found["run"] = found.pop("id"), found.pop("run_id")
        return found


def ask(store: Store, *, run_id: str, token: str, usd_micros: int, now: float) -> Approval:
    """Asked again, it waits for the amount that was asked for last."""
    with store.begin() as conn:
        runs.lock(conn, run_id)
        newest = latest(conn, run_id, token)
        if newest is not None and newest.state == "waiting":
            same = approvals.c.id == newest.id
            conn.execute(sa.update(approvals).where(same).values(usd_micros=usd_micros))
            return get(conn, newest.id)
        made = runs.new_id("a")
        values = {"id": made, "run_id": run_id, "token": token, "usd_micros": usd_micros, "state": "waiting"}
        conn.execute(sa.insert(approvals).values(**values, word="", created_at=now))
        detail = {"approval": made, "usd_micros": usd_micros}
        runs.add_event(conn, run_id, kind="approval_asked", actor=token, now=now, detail=detail)
        return get(conn, made)


def decide(store: Store, approval_id: str, decision: Decision, *, word: str, actor: str, now: float) -> Approval:
    """A person's yes or no. The first stays: another one is a Conflict."""
    with store.begin() as conn:
        tokens.need(conn, "admin", "approve: that is for a person")
        asked = get(conn, approval_id)
        runs.lock(conn, asked.run_id)
        waiting = (approvals.c.id == approval_id) & (approvals.c.state == "waiting")
        values = {"state": decision, "word": word[:MAX_WORD_CHARS], "actor": actor, "decided_at": now}
        if conn.execute(sa.update(approvals).where(waiting).values(**values)).rowcount != 1:
            asked = get(conn, approval_id)
            if asked.state == decision:
                return asked
            raise Conflict(f"approval {approval_id} was {asked.state} before", next="patron lab")
        detail = {"approval": approval_id, "usd_micros": asked.usd_micros, "word": values["word"]}
        runs.add_event(conn, asked.run_id, kind=f"approval_{decision}", actor=actor, now=now, detail=detail)
        return get(conn, approval_id)


def use(conn: Connection, approval_id: str) -> None:
    conn.execute(sa.update(approvals).where(approvals.c.id == approval_id).values(state="held"))


def latest(conn: Connection, run_id: str, token: str) -> Approval | None:
    """The newest that this token asked for, for this run."""
    mine = (approvals.c.run_id == run_id) & (approvals.c.token == token)
    query = _SELECTED.where(mine).order_by(approvals.c.created_at.desc(), approvals.c.id).limit(1)
    row = conn.execute(query).first()
    return None if row is None else _approval(row)


def get(store: Store | Connection, approval_id: str) -> Approval:
    with reading(store) as conn:
        row = conn.execute(_SELECTED.where(approvals.c.id == approval_id)).first()
    if row is None:
        raise NotFound(f"there is no approval {approval_id!r}", next="patron lab")
    return _approval(row)


def waiting(store: Store | Connection, *, project: str | None = None) -> list[Approval]:
    """Oldest first."""
    query = _SELECTED.where(approvals.c.state == "waiting").order_by(approvals.c.created_at)
    if project is not None:
        query = query.where(runs_table.c.project == project)
    with reading(store) as conn:
        return [_approval(row) for row in conn.execute(query)]


def _approval(row: Row[Any]) -> Approval:
    return Approval(**row._mapping)
