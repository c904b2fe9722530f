"""What machines were measured to do, so that the next estimate is better than the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.store.engine import Store, reading
from patron_core.store.records import Calibration
from patron_core.store.schema import calibrations

CalibrationKind = Literal["dryrun", "run", "peak", "timing"]


def record(
    conn: Connection,
    *,
    machine: str,
    kind: CalibrationKind,
    values: dict[str, Any],
    run_id: str | None = None,
    now: float,
) -> None:
    row = {"machine": machine, "kind": kind, "values": values, "run_id": run_id, "time": now}
    conn.execute(sa.insert(calibrations).values(row))


def latest(
    store: Store | Connection,
    machine: str,
    kind: CalibrationKind | Sequence[CalibrationKind] | None = None,
    limit: int = 100,
) -> list[Calibration]:
    """Newest first."""
    return _read(store, machine, kind, limit)


def all_for(store: Store | Connection, machine: str | None = None) -> list[Calibration]:
    """Everything ever measured, on one machine or on all, newest first."""
    return _read(store, machine, None, None)


def _read(
    store: Store | Connection, machine: str | None, kind: str | Sequence[str] | None, limit: int | None
) -> list[Calibration]:
    query = sa.select(calibrations).order_by(calibrations.c.id.desc()).limit(limit)
    if machine is not None:
        query = query.where(calibrations.c.machine == machine)
    if kind is not None:
        query = query.where(calibrations.c.kind.in_([kind] if isinstance(kind, str) else kind))
    with reading(store) as conn:
        return [Calibration(**row._mapping) for row in conn.execute(query)]


def move(conn: Connection, run_id: str, *, machine: str) -> None:
    """What a run measured is that machine's from now on; it was kept under the name of a CPU."""
    conn.execute(sa.update(calibrations).where(calibrations.c.run_id == run_id).values(machine=machine))
