"""How far each run has been copied into MLflow."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.store.engine import Store, reading, upsert
from patron_core.store.records import Mirror
from patron_core.store.schema import mirrors


def get(store: Store | Connection, run_id: str) -> Mirror | None:
    with reading(store) as conn:
        row = conn.execute(sa.select(mirrors).where(mirrors.c.run_id == run_id)).first()
    return None if row is None else Mirror(**row._mapping)


def put(conn: Connection, run_id: str, *, mlflow_run_id: str, position: dict[str, Any], now: float) -> None:
    values = {"run_id": run_id, "mlflow_run_id": mlflow_run_id, "position": position, "updated_at": now}
    upsert(conn, mirrors, values, unique=["run_id"])
