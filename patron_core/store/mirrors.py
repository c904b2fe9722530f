"""How far each run has been copied into MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.states import RunState
from patron_core.store.engine import Store, reading, upsert
from patron_core.store.finding import typed_run, values_of
from patron_core.store.records import Mirror, Run
from patron_core.store.schema import attempts, mirrors, runs

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
