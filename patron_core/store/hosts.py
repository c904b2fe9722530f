"""The machines of a lab, and when each was last heard: by the database's clock, which is everybody's."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.store.engine import Store, reading, upsert, writing
from patron_core.store.leases import now_s
from patron_core.store.records import Host
from patron_core.store.schema import hosts


def heard(store: Store | Connection, host: Host) -> None:
    """It is there at this moment."""
    with writing(store) as conn:
        row: dict[str, Any] = {name: getattr(host, name) for name in ("id", "name", "user", "home", "boot_id")}
        upsert(conn, hosts, row | {"last_heard_at": now_s(conn)}, unique=["id"])


def get(store: Store | Connection, host_id: str | None) -> Host | None:
    """None for one that was never heard."""
    return everybody(store).get(host_id or "")


def everybody(store: Store | Connection) -> dict[str, Host]:
    """By id."""
    with reading(store) as conn:
        age_s = (now_s(conn) - hosts.c.last_heard_at).label("age_s")
        rows = conn.execute(sa.select(hosts, age_s)).all()
    return {
        row.id: Host(
            id=row.id, name=row.name, user=row.user, home=row.home, boot_id=row.boot_id, silent_s=max(0.0, row.age_s)
        )
        for row in rows
    }
