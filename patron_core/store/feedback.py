"""Feedback: what agents and people say of Patron itself, and what its owner answers. Given once under a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from patron_core.errors import Conflict, NotFound
from patron_core.store.engine import Store, insert_new, reading
from patron_core.store.names import check_key
from patron_core.store.runs import new_id
from patron_core.store.schema_of_words import feedback


@dataclass(frozen=True, kw_only=True)
class Feedback:
    id: str
    actor: str
    key: str
    about: str
    body: str
    created_at: float
    answer: str | None
    answered_by: str | None
    answered_at: float | None

    def to_dict(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in Feedback.__dataclass_fields__ if name not in ("id", "key")}
        return {"feedback": self.id} | shown


def give(store: Store, *, actor: str, key: str, about: str, body: str, now: float) -> Feedback:
    """The same key gives it once. Raises Conflict where that key said something else."""
    check_key(key)
    values = {"id": new_id("f"), "actor": actor, "key": key, "about": about, "body": body, "created_at": now}
    with store.begin() as conn:
        insert_new(conn, feedback, values, unique=["actor", "key"])
        mine = (feedback.c.actor == actor) & (feedback.c.key == key)
        kept = _feedback(conn.execute(sa.select(feedback).where(mine)).one())
    if (kept.about, kept.body) != (about, body):
        raise Conflict(f"key {key!r} gave feedback {kept.id} in other words", next="use a new key for new feedback")
    return kept


def answer(store: Store, feedback_id: str, *, answer: str, actor: str, now: float) -> Feedback:
    """A later answer takes the place of an earlier one."""
    with store.begin() as conn:
        that = feedback.c.id == feedback_id
        conn.execute(sa.update(feedback).where(that).values(answer=answer, answered_by=actor, answered_at=now))
        return get(conn, feedback_id)


def get(store: Store | Connection, feedback_id: str) -> Feedback:
    with reading(store) as conn:
        row = conn.execute(sa.select(feedback).where(feedback.c.id == feedback_id)).first()
    if row is None:
        raise NotFound(f"there is no feedback {feedback_id!r}", next="patron feedback")
    return _feedback(row)


def listed(
    store: Store | Connection, *, actor: str | None = None, unanswered: bool = False, limit: int = 100
) -> list[Feedback]:
    """Newest first."""
    query = sa.select(feedback).order_by(feedback.c.created_at.desc(), feedback.c.id).limit(limit)
    if actor is not None:
        query = query.where(feedback.c.actor == actor)
    if unanswered:
        query = query.where(feedback.c.answer.is_(None))
    with reading(store) as conn:
        return [_feedback(row) for row in conn.execute(query)]


def _feedback(row: Row[Any]) -> Feedback:
    return Feedback(**row._mapping)
