"""The lab: who it is. A random id, made with the database: no URL's spelling and no host is part of it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.store.engine import Store, reading
from patron_core.store.schema import lab

BEFORE_IDS = "00000000"  # of a database that was not migrated since labs have ids; nothing starts from there


def lab_id(place: Store | Connection) -> str:
    """Eight hex digits. Jobs at SkyPilot and runs in MLflow carry them; those who share a database agree on them."""
    with reading(place) as conn:
        found: str | None = conn.execute(sa.select(lab.c.id)).scalar()
    return found or BEFORE_IDS
