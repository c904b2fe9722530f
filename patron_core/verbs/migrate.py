"""Migrate: bring the lab's database to this checkout's version, on purpose, with a backup, and while nothing runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from patron_core.errors import Refused
from patron_core.store import Store, upgrade
from patron_core.store.backup import back_up

SHOWN_RUNS = 5


@dataclass(frozen=True, kw_only=True)
class Migration:
    old: str
    new: str
    backup: Path | None

    def to_dict(self) -> dict[str, Any]:
        return {"from": self.old, "to": self.new, "backup": str(self.backup) if self.backup else None}


def migrate(*, backup: bool = True, live: bool = False) -> Migration:
    """Nothing to do: from and to are the same. Raises Refused where attempts are live, unless `live`, and where no
    backup can be made; Unavailable where the database is newer than this checkout."""
    store = Store.open(to_migrate=True)
    try:
        if store.version == upgrade.HEAD:
            return Migration(old=upgrade.HEAD, new=upgrade.HEAD, backup=None)
        if store.version > upgrade.HEAD:
            raise upgrade.OtherVersion(store.version)
        with store.read() as conn:
            _check_at_rest(conn, live=live)
        copy = back_up(store) if backup and store.dialect != "sqlite" else None
        with store.begin(any_version=True) as conn:
            upgrade.wait_for_writers(conn)
            _check_at_rest(conn, live=live)
            if backup and store.dialect == "sqlite":  # with the write lock: nothing is written in between
                copy = back_up(store)
            upgrade.to_head(conn)
        return Migration(old=store.version, new=upgrade.HEAD, backup=copy)
    finally:
        store.close()


def _check_at_rest(conn: Connection, *, live: bool) -> None:
    running = upgrade.live_attempts(conn)
    if not running or live:
        return
    names = ", ".join(f"{name} ({run_id})" for run_id, name in running[:SHOWN_RUNS])
    more = f" and {len(running) - SHOWN_RUNS} more" if len(running) > SHOWN_RUNS else ""
    raise Refused(
        f"{len(running)} attempts are live, of {names}{more}: what supervises them stops at a migration. Wait for "
        "their end or pause them; where nobody supervises them any more, `patron migrate --live` hands them on",
        next=f"patron watch --run {running[0][0]} --pause --yes",
    )
