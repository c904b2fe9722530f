"""How far each run has been copied into MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.states import ACTIVE, RunState
from patron_core.store.engine import Store, reading, upsert
from patron_core.store.finding import typed_run, values_of
from patron_core.store.leases import now_s
from patron_core.store.records import Mirror, Run
from patron_core.store.schema import attempts, mirrors, runs

_SAID_EVERY_S = 5.0
_COLUMNS = [mirrors.c[name] for name in Mirror.__dataclass_fields__]


def get(store: Store | Connection, run_id: str) -> Mirror | None:
    """None where nothing was ever mirrored."""
    query = sa.select(*_COLUMNS).where(mirrors.c.run_id == run_id, mirrors.c.mlflow_run_id != "")
    with reading(store) as conn:
        row = conn.execute(query).first()
    return None if row is None else Mirror(**row._mapping)


def put(conn: Connection, run_id: str, *, mlflow_run_id: str, position: dict[str, Any], now: float) -> None:
    values = {"run_id": run_id, "mlflow_run_id": mlflow_run_id, "position": position, "updated_at": now}
    upsert(conn, mirrors, values, unique=["run_id"])


def at_rest(conn: Connection, run: Run, *, now: float) -> None:
    """All of the run is mirrored as it is now; until it changes it needs no look, even if there was nothing to send."""
    empty = {"run_id": run.id, "mlflow_run_id": "", "position": {}, "updated_at": now, "rested_at": run.updated_at}
    found = sa.update(mirrors).where(mirrors.c.run_id == run.id).values(rested_at=run.updated_at)
    if conn.execute(found).rowcount == 0:
        upsert(conn, mirrors, empty, unique=["run_id"])


def unrested(store: Store | Connection, resting: Iterable[RunState]) -> list[Run]:
    """Every run in one of these states that was launched and is not mirrored as it is. Oldest first."""
    of_run = attempts.c.run_id == runs.c.id
    launched = sa.exists().where(of_run, attempts.c.kind == "train", attempts.c.started_at.is_not(None))
    done = sa.exists().where(mirrors.c.run_id == runs.c.id, mirrors.c.rested_at == runs.c.updated_at)
    query = sa.select(runs).where(runs.c.state.in_(values_of(resting)), launched, ~done)
    with reading(store) as conn:
        return [typed_run(row) for row in conn.execute(query.order_by(runs.c.created_at, runs.c.id))]


def tried(store: Store, run_id: str, *, error: str | None) -> None:
    """What a sync came to: all is mirrored, or why not. Written where it says something new, or was said 5 s ago."""
    with store.read() as conn:
        age_s = now_s(conn) - mirrors.c.synced_at
        row = conn.execute(sa.select(mirrors.c.error, age_s).where(mirrors.c.run_id == run_id)).first()
    if row is not None and row[0] == error and (error is not None or (row[1] is not None and row[1] < _SAID_EVERY_S)):
        return
    with store.begin() as conn:
        said: dict[str, Any] = {"error": error} | ({"synced_at": now_s(conn)} if error is None else {})
        if conn.execute(sa.update(mirrors).where(mirrors.c.run_id == run_id).values(**said)).rowcount == 0:
            empty = {"run_id": run_id, "mlflow_run_id": "", "position": {}, "updated_at": 0.0}
            upsert(conn, mirrors, empty | said, unique=["run_id"])


def late(
    store: Store | Connection, *, over_s: float, run_id: str | None = None
) -> list[tuple[str, str, float, str | None]]:
    """(run, its name, seconds, why) of every run that trains, or was left unfinished, and whose mirror lags by more.

    A mirror that never was is as late as the run is old since its start.
    """
    begun = sa.select(sa.func.min(attempts.c.started_at)).where(
        attempts.c.run_id == runs.c.id, attempts.c.kind == "train"
    )
    at_rest = runs.c.state.not_in(values_of(ACTIVE))
    done = at_rest & (mirrors.c.rested_at == runs.c.updated_at)
    with reading(store) as conn:
        since = sa.func.coalesce(mirrors.c.synced_at, begun.scalar_subquery())
        lag_s = (now_s(conn) - since).label("lag_s")
        query = sa.select(runs.c.id, runs.c.name, lag_s, mirrors.c.error).outerjoin(
            mirrors, mirrors.c.run_id == runs.c.id
        )
        query = query.where(since.is_not(None), sa.func.coalesce(~done, True), lag_s > over_s)
        query = query if run_id is None else query.where(runs.c.id == run_id)
        return [(row[0], row[1], row[2], row[3]) for row in conn.execute(query.order_by(runs.c.created_at, runs.c.id))]
