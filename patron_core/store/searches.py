"""Searches: the question, every decision in order, and the answer. A decision that is written stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from patron_core.errors import Conflict, NotFound
from patron_core.store.engine import Store, insert_new, reading
from patron_core.store.names import check_key, check_names
from patron_core.store.records import Search
from patron_core.store.schema import search_decisions, searches


def save(
    conn: Connection,
    *,
    search_id: str,
    project: str,
    key: str,
    question: dict[str, Any],
    state: str,
    decisions: Sequence[dict[str, Any]],
    result: dict[str, Any] | None,
    now: float,
) -> Search:
    """Make it, or bring it up to date. `decisions` are all of them so far; those already written may not differ."""
    check_names(project=project)
    check_key(key)
    made = {"id": search_id, "project": project, "key": key, "question": question, "state": state, "result": result}
    if not insert_new(conn, searches, {**made, "created_at": now, "updated_at": now}, unique=["project", "key"]):
        old = conn.execute(_by_key(project, key).with_for_update()).one()
        if old.id != search_id:
            raise Conflict(
                f"key {key!r} of project {project!r} already made search {old.id}",
                next=f"continue {old.id}, or new key",
            )
        changes = {"question": question, "state": state, "result": result, "updated_at": now}
        conn.execute(sa.update(searches).where(searches.c.id == search_id).values(**changes))
    written = _decisions(conn, [search_id])[search_id]
    if list(decisions[: len(written)]) != written:
        raise Conflict(
            f"search {search_id} has {len(written)} decisions written down, and they are not the first of "
            f"these {len(decisions)}",
            next="read the search again and go on from there",
        )
    for number, decision in enumerate(decisions[len(written) :], start=len(written) + 1):
        values = {"search_id": search_id, "number": number, "decision": decision, "time": now}
        conn.execute(sa.insert(search_decisions).values(**values))
    return get(conn, search_id)


def get(store: Store | Connection, search_id: str) -> Search:
    with reading(store) as conn:
        row = conn.execute(sa.select(searches).where(searches.c.id == search_id)).first()
        if row is None:
            raise NotFound(f"there is no search {search_id!r}", next="list the searches to see their ids")
        return _search(row, _decisions(conn, [search_id]))


def find(store: Store | Connection, *, project: str, key: str) -> Search | None:
    with reading(store) as conn:
        row = conn.execute(_by_key(project, key)).first()
        return None if row is None else _search(row, _decisions(conn, [row.id]))


def has_key(store: Store | Connection, key: str) -> bool:
    """Whether a search of any project was made under this key."""
    with reading(store) as conn:
        return conn.execute(sa.select(searches.c.id).where(searches.c.key == key).limit(1)).first() is not None


def list_searches(store: Store | Connection, *, project: str | None = None, limit: int = 100) -> list[Search]:
    """Newest first."""
    query = sa.select(searches).order_by(searches.c.created_at.desc(), searches.c.id.desc()).limit(limit)
    if project is not None:
        query = query.where(searches.c.project == project)
    with reading(store) as conn:
        rows = conn.execute(query).all()
        decisions = _decisions(conn, [row.id for row in rows])
        return [_search(row, decisions) for row in rows]


def _by_key(project: str, key: str) -> sa.Select[Any]:
    return sa.select(searches).where(searches.c.project == project, searches.c.key == key)


def _decisions(conn: Connection, search_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    query = sa.select(search_decisions).where(search_decisions.c.search_id.in_(search_ids))
    found: dict[str, list[dict[str, Any]]] = {search_id: [] for search_id in search_ids}
    for row in conn.execute(query.order_by(search_decisions.c.search_id, search_decisions.c.number)):
        found[row.search_id].append(row.decision)
    return found


def _search(row: Row[Any], decisions: dict[str, list[dict[str, Any]]]) -> Search:
    return Search(**{**row._mapping, "decisions": decisions[row.id]})
