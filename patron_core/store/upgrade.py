"""Bringing a database to the newest migration. Alembic is imported only when there is something to do.

A migration never changes once it is released; a change is a new file in migrations/versions and a new HEAD here.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core.errors import Unavailable

HEAD = "0005"  # the newest file in migrations/versions; a test compares
_LOCK_NUMBER = 7_285_766  # any number, the same for every Patron


def is_current(conn: Connection) -> bool:
    return _revision(conn) == HEAD


def to_head(conn: Connection) -> None:
    """Migrate inside the caller's write transaction. Of several at once, one migrates and the others wait for it."""
    if conn.dialect.name == "postgresql":  # SQLite's write lock is already ours
        conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_NUMBER)))
    revision = _revision(conn)
    if revision == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "patron_core.store:migrations")
    config.set_main_option("path_separator", "os")
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    if revision is not None and revision not in known:
        raise Unavailable(
            f"the database is at version {revision}, this Patron knows versions up to {HEAD}",
            next="upgrade Patron here, or point PATRON_DATABASE_URL at another database",
        )
    config.attributes["connection"] = conn
    command.upgrade(config, "head")


def _revision(conn: Connection) -> str | None:
    if not conn.dialect.has_table(conn, "alembic_version"):
        return None
    revision: str | None = conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return revision
