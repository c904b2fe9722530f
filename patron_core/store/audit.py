"""The audit log: every call that changed something, or wanted to. Append-only; the database refuses anything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from patron_core.store.engine import Store
from patron_core.store.schema_of_access import audit


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    id: int
    time: float
    actor: str
    origin: str
    verb: str
    project: str | None
    run_id: str | None
    outcome: str  # done, or the error's code
    detail: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in AuditEntry.__dataclass_fields__}


def write(
    store: Store,
    *,
    actor: str,
    verb: str,
    project: str | None,
    run_id: str | None,
    outcome: str,
    detail: dict[str, Any],
    now: float,
) -> None:
    values = {"actor": actor, "verb": verb, "project": project, "run_id": run_id, "outcome": outcome}
    with store.begin() as conn:
        conn.execute(sa.insert(audit).values(**values, time=now, origin=store.origin, detail=detail))


def entries(store: Store, *, actor: str | None = None, before: int | None = None, limit: int = 100) -> list[AuditEntry]:
    """Newest first; `before` is the id of the last one of the page before."""
    query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
    if actor is not None:
        query = query.where(audit.c.actor == actor)
    if before is not None:
        query = query.where(audit.c.id < before)
    with store.read() as conn:
        return [AuditEntry(**row._mapping) for row in conn.execute(query)]
