"""Versions of a database: which this Patron writes, which it reads, and bringing one to the newest.

A migration never changes once it is released; a change is a new file in migrations/versions and a new HEAD here. It
only adds: tables, and columns that may be null or have a server default (the same in schema.py). So a checkout reads,
pauses and cancels on newer databases and on older ones (older.py); all else needs its own version, and is refused with
what to do. Only `patron migrate` migrates; an empty database is made as it has to be. A migration that takes
something away raises READABLE_FROM to its own number, which locks checkouts of before out. A test looks at all of this.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from patron_core import settings
from patron_core.errors import Refused, Unavailable

HEAD = "0010"  # the newest file in migrations/versions; a test compares
READABLE_FROM = "0001"  # the newest migration that took something away; the database holds it too, for older checkouts
_LOCK_NUMBER = 7_285_766  # any number, the same for every Patron


class OtherVersion(Refused):
    """The database is not of this checkout's version, and what was asked needs that."""

    def __init__(self, version: str):
        if version < HEAD:
            super().__init__(
                f"the database is at version {version}, and this Patron writes version {HEAD}: until it is migrated it "
                "can be read, and runs can be paused and cancelled",
                next="patron migrate",
            )
        else:
            super().__init__(
                f"the database is at version {version}, newer than this Patron, which writes version {HEAD}: here it "
                "can be read, and runs can be paused and cancelled",
                next="git pull" if settings.shipped(".git").exists() else "install the Patron that the others use",
            )


def version(conn: Connection) -> str | None:
    """None where nothing was made in the database yet."""
    if not conn.dialect.has_table(conn, "alembic_version"):
        return None
    found: str | None = conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return found


def check_writable(conn: Connection) -> None:
    """For every write but a pause or a cancel, inside its transaction. Raises OtherVersion.

    On PostgreSQL this also keeps a migration waiting until the transaction is over.
    """
    found: str | None = conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if found != HEAD:
        raise OtherVersion(str(found))


def check_readable(conn: Connection, found: str) -> None:
    """Raises Unavailable for a version between which and this one something was taken away."""
    if found < HEAD and found < READABLE_FROM:
        raise Unavailable(
            f"the database is at version {found}, and this Patron reads versions from {READABLE_FROM}",
            next="patron migrate",
        )
    if found > HEAD and str(conn.execute(sa.text("SELECT readable_from FROM lab")).scalar()) > HEAD:
        raise Unavailable(
            f"the database is at version {found}, this Patron knows versions up to {HEAD}",
            next="upgrade Patron here, or point PATRON_DATABASE_URL at another database",
        )


def live_attempts(conn: Connection) -> list[tuple[str, str]]:
    """(id of the run, its name) of what runs, or may."""
    query = "SELECT runs.id, runs.name FROM attempts JOIN runs ON runs.id = run_id WHERE attempts.state <> 'ended'"
    return [(row[0], row[1]) for row in conn.execute(sa.text(query + " ORDER BY attempts.created_at"))]


def to_head(conn: Connection) -> None:
    """Migrate inside the caller's write transaction. Of several at once, one migrates and the others wait for it."""
    wait_for_writers(conn)
    if version(conn) == HEAD:
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "patron_core.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = conn
    command.upgrade(config, HEAD)
    conn.execute(sa.text("UPDATE lab SET readable_from = :it"), {"it": READABLE_FROM})


def wait_for_writers(conn: Connection) -> None:
    if conn.dialect.name != "postgresql":
        return  # SQLite's write lock is already ours
    conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_NUMBER)))
    if conn.dialect.has_table(conn, "alembic_version"):
        conn.execute(sa.text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))  # see check_writable
