"""Tags: words that a run is found again by. Any run may have any number; they change nothing of it."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.store.engine import Store, insert_new, reading, writing
from patron_core.store.names import check_names
from patron_core.store.schema import run_tags

PINNED = "pinned"  # a tag like any other; the table shows such a run first, and its checkpoints stay


def add(store: Store | Connection, run_id: str, tags: Iterable[str]) -> None:
    """Those that it has already stay. Raises InvalidInput for a tag that nobody could read."""
    wanted = list(dict.fromkeys(tags))
    check_names(**{f"tag {tag!r}": tag for tag in wanted})
    with writing(store) as conn:
        for tag in wanted:
            insert_new(conn, run_tags, {"run_id": run_id, "tag": tag}, unique=["run_id", "tag"])


def remove(store: Store | Connection, run_id: str, tags: Iterable[str]) -> None:
    """Those that it has not are none to be removed."""
    with writing(store) as conn:
        conn.execute(sa.delete(run_tags).where(run_tags.c.run_id == run_id, run_tags.c.tag.in_(list(tags))))


def of_runs(store: Store | Connection, run_ids: Iterable[str]) -> dict[str, list[str]]:
    """By run, in alphabetical order; an empty list for a run without any."""
    found: dict[str, list[str]] = {run_id: [] for run_id in run_ids}
    query = sa.select(run_tags).where(run_tags.c.run_id.in_(list(found))).order_by(run_tags.c.tag)
    with reading(store) as conn:
        for row in conn.execute(query):
            found[row.run_id].append(row.tag)
    return found


def run_ids(store: Store | Connection, tags: Iterable[str]) -> list[str]:
    """Of the runs that have all of these tags."""
    wanted = list(dict.fromkeys(tags))
    query = sa.select(run_tags.c.run_id).where(run_tags.c.tag.in_(wanted)).group_by(run_tags.c.run_id)
    with reading(store) as conn:
        return [row.run_id for row in conn.execute(query.having(sa.func.count() == len(wanted)))]


def counts(store: Store | Connection) -> dict[str, int]:
    """Every tag there is, with how many runs have it."""
    query = sa.select(run_tags.c.tag, sa.func.count()).group_by(run_tags.c.tag).order_by(run_tags.c.tag)
    with reading(store) as conn:
        return {row[0]: row[1] for row in conn.execute(query)}
