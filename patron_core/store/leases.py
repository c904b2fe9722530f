"""Leases: who may do what only one may do, for a while. They outlive nobody: an expired lease is free.

Time is the database's own: those who share one agree on it, whatever the clocks of their machines say.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from patron_core.store.engine import Store, insert_new, reading, writing
from patron_core.store.records import Lease
from patron_core.store.schema import leases

_SANE_TTLS = 10  # an expiry further away than this many of its own lifetimes was written before a clock jumped back


def acquire(store: Store | Connection, name: str, *, holder: str, ttl_s: float) -> bool:
    """Take the lease, or keep it. False while somebody else holds it. Writes nothing while half of it is left."""
    with reading(store) as conn:
        fresh = (leases.c.holder == holder) & (leases.c.expires_at > now_s(conn) + ttl_s / 2) & _valid(conn)
        if conn.execute(sa.select(leases.c.name).where(leases.c.name == name, fresh)).first() is not None:
            return True
    with writing(store) as conn:
        mine: dict[str, Any] = {"name": name, "holder": holder, "expires_at": now_s(conn) + ttl_s, "ttl_s": ttl_s}
        if insert_new(conn, leases, mine, unique=["name"]):
            return True
        takeable = (leases.c.holder == holder) | ~_valid(conn)
        return conn.execute(sa.update(leases).where(leases.c.name == name, takeable).values(**mine)).rowcount == 1


def release(store: Store | Connection, name: str, *, holder: str) -> bool:
    """Give it back at once. False when it was not this holder's."""
    with writing(store) as conn:
        query = sa.delete(leases).where(leases.c.name == name, leases.c.holder == holder)
        return conn.execute(query).rowcount == 1


def current(store: Store | Connection, name: str) -> Lease | None:
    """The lease, while somebody holds it."""
    with reading(store) as conn:
        row = conn.execute(sa.select(leases).where(leases.c.name == name, _valid(conn))).first()
    return None if row is None else Lease(**row._mapping)


def now_s(conn: Connection) -> ColumnElement[float]:
    """The database's clock at the moment of use, in unix seconds: a transaction may have waited for its lock."""
    if conn.dialect.name == "postgresql":
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
    return (sa.func.julianday("now", type_=sa.Double) - 2440587.5) * 86400.0


def database_now(store: Store | Connection) -> float:
    """Unix seconds by the clock that all who share a lab agree on."""
    with reading(store) as conn:
        return float(conn.execute(sa.select(now_s(conn))).scalar_one())


def _valid(conn: Connection) -> ColumnElement[bool]:
    now = now_s(conn)
    return (leases.c.expires_at > now) & (leases.c.expires_at <= now + _SANE_TTLS * leases.c.ttl_s)
