"""Leases: who may do what only one may do, for a while. They outlive nobody: an expired lease is free."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from patron_core.store.engine import Store, insert_new, reading, writing
from patron_core.store.records import Lease
from patron_core.store.schema import leases

_SANE_TTLS = 10  # an expiry further away than this many of its own lifetimes was written before a clock jumped back


def acquire(store: Store | Connection, name: str, *, holder: str, ttl_s: float, now: float) -> bool:
    """Take the lease, or keep it. False while somebody else holds it."""
    mine = {"name": name, "holder": holder, "expires_at": now + ttl_s, "ttl_s": ttl_s}
    with writing(store) as conn:
        if insert_new(conn, leases, mine, unique=["name"]):
            return True
        takeable = (leases.c.holder == holder) | ~_valid(now)
        return conn.execute(sa.update(leases).where(leases.c.name == name, takeable).values(**mine)).rowcount == 1


def renew(store: Store | Connection, name: str, *, holder: str, ttl_s: float, now: float) -> bool:
    """Keep it for longer. False when it is somebody else's by now, or gone: stop what it was for."""
    mine = (leases.c.name == name) & (leases.c.holder == holder)
    with writing(store) as conn:
        return conn.execute(sa.update(leases).where(mine).values(expires_at=now + ttl_s, ttl_s=ttl_s)).rowcount == 1


def release(store: Store | Connection, name: str, *, holder: str) -> bool:
    """Give it back at once. False when it was not this holder's."""
    with writing(store) as conn:
        query = sa.delete(leases).where(leases.c.name == name, leases.c.holder == holder)
        return conn.execute(query).rowcount == 1


def current(store: Store | Connection, name: str, *, now: float) -> Lease | None:
    """The lease, while somebody holds it."""
    with reading(store) as conn:
        row = conn.execute(sa.select(leases).where(leases.c.name == name, _valid(now))).first()
    return None if row is None else Lease(**row._mapping)


def _valid(now: float) -> ColumnElement[bool]:
    return (leases.c.expires_at > now) & (leases.c.expires_at <= now + _SANE_TTLS * leases.c.ttl_s)
