"""What was asked of a run under an idempotency key: the same key and question are answered once, and again the same.

Kept among the run's events, so that a question and what it did are one transaction. Call `answered` after `runs.lock`:
of many at once, the first does it, and the others see that it is done.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.errors import Conflict
from patron_core.store import runs
from patron_core.store.engine import Store, reading
from patron_core.store.names import check_key
from patron_core.store.schema import run_events

_KIND = "asked"


def answered(store: Store | Connection, run_id: str, verb: str, key: str | None, question: dict[str, Any]) -> bool:
    """Whether this was asked before. Raises Conflict, naming both, where the key asked for something else."""
    if key is None:
        return False
    check_key(key)
    query = sa.select(run_events.c.detail).where(run_events.c.run_id == run_id, run_events.c.kind == _KIND)
    with reading(store) as conn:
        asked = [detail for (detail,) in conn.execute(query) if (detail["verb"], detail["key"]) == (verb, key)]
    if not asked:
        return False
    if (was := asked[0]["question"]) != question:
        raise Conflict(
            f"key {key!r} was used to {verb} run {run_id} with {_said(was)}, now with {_said(question)}",
            next="use a new key for a new request, or the old values to get the old answer",
        )
    return True


def write(
    conn: Connection,
    run_id: str,
    verb: str,
    key: str | None,
    question: dict[str, Any],
    *,
    actor: str,
    now: float,
) -> None:
    """In the transaction that does what was asked. Without a key there is nothing to remember."""
    if key is not None:
        detail = {"verb": verb, "key": key, "question": question}
        runs.add_event(conn, run_id, kind=_KIND, actor=actor, now=now, detail=detail)


def _said(question: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in question.items()) or "nothing else"
