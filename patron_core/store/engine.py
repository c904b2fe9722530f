"""The database: opening it, and the two kinds of transaction. The same code runs on SQLite and on PostgreSQL.

    store = Store.open()                  # settings.database_url(); made where it is empty, never migrated
    with store.begin() as conn: ...       # write: all or nothing; on SQLite one writer at a time
    with store.read() as conn: ...        # read: sees one moment, and cannot write

A store may be shared by threads; every process opens its own (a forked one drops the inherited connections).
Nothing here waits for the network except the database itself: never call out inside `begin`.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url

from patron_core import settings
from patron_core.errors import InternalError, InvalidInput, Unavailable
from patron_core.store import faults, older, upgrade
from patron_core.store.patience import patiently

if TYPE_CHECKING:
    from patron_core.store.tokens import Token

TRY_S = 2.0  # of it in one wait inside SQLite, which can be neither said nor interrupted
LOCK_TIMEOUT_S = 15.0  # PostgreSQL's, for a row that another transaction holds
IDLE_IN_TRANSACTION_S = 10.0  # a frozen client's transaction ends, and its locks with it; none of ours idles so long


class Store:
    """Use Store.open."""

    def __init__(self, engine: Engine, url: URL, patience_s: float):
        self.url = url
        self.patience_s = patience_s
        self.version = upgrade.HEAD  # of the database, when it was opened
        self._engine = engine
        self._writes = engine.execution_options(patron_write=True)
        self._reads = engine
        if engine.dialect.name == "postgresql":
            self._reads = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._local = threading.local()
        self._pid = os.getpid()
        self.token: Token | None = None  # whose limits hold for what is written; None: the owner's
        self.origin = "script"  # where its calls come from, for the audit log

    def acting_as(self, token: Token | None, *, origin: str) -> Store:
        """The same database, for somebody with a token."""
        other = Store(self._engine, self.url, self.patience_s)
        other._writes = self._writes.execution_options(patron_token=token)
        other._reads = self._reads.execution_options(patron_token=token)
        other._local, other.token, other.origin = self._local, token, origin
        return other

    @classmethod
    def open(cls, url: str | None = None, *, patience_s: float | None = None, to_migrate: bool = False) -> Store:
        """Connect; an empty database is made, one of another version is opened for what it allows (upgrade.py), or, to
        be migrated, whatever it is. Raises Unavailable with what to do.

        A database that is busy is waited for, here and at the beginning of each transaction, for `patience_s` at most
        (settings.database_wait_s); then it is Busy. A server is waited for only once it has answered.
        """
        patience_s = settings.database_wait_s() if patience_s is None else patience_s
        parsed = _parse_url(url if url is not None else settings.database_url())
        if parsed.get_backend_name() == "sqlite":
            _make_parent(Path(str(parsed.database)), parsed)
            engine = _sqlite_engine(parsed, patience_s)
        else:
            engine = _postgresql_engine(parsed, patience_s)
        is_file = parsed.get_backend_name() == "sqlite"
        store = cls(engine, parsed, patience_s if is_file else 0.0)
        try:
            with store.read() as conn:
                version = upgrade.version(conn)
                if version not in (None, upgrade.HEAD) and not to_migrate:
                    upgrade.check_readable(conn, version)
                    older.read_as_ours(engine, conn)
            store.patience_s = patience_s
            if version is None:
                with store.begin(any_version=True) as conn:
                    upgrade.to_head(conn)
            store.version = version or upgrade.HEAD
        except BaseException:
            store.close()
            raise
        return store

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @contextmanager
    def begin(self, *, any_version: bool = False) -> Iterator[Connection]:
        """A write transaction: commits at the end, rolls everything back when anything is raised.

        Raises upgrade.OtherVersion where the database is not of this checkout's version, also since a minute ago; only
        a pause, a cancel and a migration are allowed at any version.
        """
        if getattr(self._local, "writing", False):
            raise InternalError(
                "a write transaction was begun inside another one of the same thread, which would wait for itself",
                next="pass the open connection on instead of the store",
            )
        self._forget_inherited()
        self._local.writing = True
        try:
            with self._transaction(self._writes) as conn:
                if not any_version:
                    upgrade.check_writable(conn)
                yield conn
        finally:
            self._local.writing = False

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only transaction: everything it reads is of one moment. One inside another of its thread joins it."""
        self._forget_inherited()
        outer: tuple[Engine, Connection] | None = getattr(self._local, "reading", None)
        if outer is not None and outer[0] is self._reads:
            yield outer[1]
            return
        with self._transaction(self._reads) as conn:
            self._local.reading = (self._reads, conn)
            try:
                yield conn
            finally:
                self._local.reading = outer

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        """Only its beginning is tried again: of what comes after, nobody but the caller knows whether it may be."""

        def begun() -> Connection:
            with faults.translated(self.url):
                conn = engine.connect()
                try:
                    conn.begin()
                except BaseException:
                    conn.close()
                    raise
                return conn

        conn = patiently(begun, patience_s=self.patience_s)
        with faults.translated(self.url), conn, conn.get_transaction() or conn.begin():
            yield conn

    def close(self) -> None:
        self._engine.dispose()

    def _forget_inherited(self) -> None:
        if self._pid != os.getpid():  # connections must not be shared with the process that forked this one
            self._engine.dispose(close=False)
            self._local.reading = None
            self._pid = os.getpid()


def reading(place: Store | Connection) -> AbstractContextManager[Connection]:
    """The connection itself, or a read transaction of the store."""
    return place.read() if isinstance(place, Store) else nullcontext(place)


def writing(place: Store | Connection) -> AbstractContextManager[Connection]:
    """The connection itself, or a write transaction of the store."""
    return place.begin() if isinstance(place, Store) else nullcontext(place)


def insert_new(conn: Connection, table: Table, values: Mapping[str, Any], *, unique: Sequence[str]) -> bool:
    """Insert, unless a row with the same `unique` columns exists. True when this call inserted it.

    Two at once: the later waits until the earlier is committed, then gets False and can read that row.
    """
    return insert_or_nothing(conn, table, values, unique=unique) is not None


def insert_or_nothing(
    conn: Connection, table: Table, values: Mapping[str, Any], *, unique: Sequence[str]
) -> Row[Any] | None:
    """Like insert_new, returning the new row. (An INSERT's rowcount is not to be relied upon.)"""
    insert = _insert(conn)(table).values(**values).on_conflict_do_nothing(index_elements=list(unique))
    row: Row[Any] | None = conn.execute(insert.returning(table)).first()
    return row


def upsert(conn: Connection, table: Table, values: Mapping[str, Any], *, unique: Sequence[str]) -> None:
    insert = _insert(conn)(table).values(**values)
    changed = {name: insert.excluded[name] for name in values if name not in unique and name != "created_at"}
    conn.execute(insert.on_conflict_do_update(index_elements=list(unique), set_=changed))


def _insert(conn: Connection) -> Callable[[Table], Any]:
    return postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert


def _parse_url(text: str) -> URL:
    hint = "export PATRON_DATABASE_URL=sqlite:////path/to/patron.db"
    try:
        url = make_url(text)
        backend = url.get_backend_name()
    except sa.exc.ArgumentError:
        raise InvalidInput(["the database URL cannot be read"], next=hint) from None
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and url.database not in (None, "", ":memory:"):
        return url
    shown = url.render_as_string(hide_password=True)
    raise InvalidInput([f"database URL {shown!r}; allowed: a SQLite file or PostgreSQL"], next=hint)


def _make_parent(file: Path, url: URL) -> None:
    try:
        if file.absolute().parent == settings.home():
            settings.make_home()
        file.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"the folder for {url.database} cannot be made: {error.strerror}",
            next="export PATRON_HOME=/a/folder/you/can/write",
        ) from error


def _sqlite_engine(url: URL, patience_s: float) -> Engine:
    try_s = min(TRY_S, patience_s / 3)
    engine = sa.create_engine(url, json_serializer=dumps, connect_args={"timeout": try_s})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; `begin` below does
        connection.execute("PRAGMA foreign_keys = ON")
        _use_wal(connection, try_s)

    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        writes = conn.get_execution_options().get("patron_write", False)
        conn.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
        # IMMEDIATE takes the write lock now: a transaction that reads and then writes never finds itself outdated
        conn.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection, try_s: float) -> None:
    """WAL lets readers and a writer work at once. It stays in the file, so only the first opener sets it.

    SQLite does not wait for this switch: while another process makes it, or writes, it says at once that it is locked.
    """
    end = time.monotonic() + try_s
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= end:
                raise
            time.sleep(0.02)


def _postgresql_engine(url: URL, patience_s: float) -> Engine:
    connect_args = {} if "connect_timeout" in url.query else {"connect_timeout": 5}
    engine = sa.create_engine(url, json_serializer=dumps, pool_pre_ping=True, connect_args=connect_args)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # a notebook that froze inside a transaction must not hold its locks for ever
        connection.execute(f"SET lock_timeout = {max(1, int(1000 * min(LOCK_TIMEOUT_S, patience_s)))}")
        connection.execute(f"SET idle_in_transaction_session_timeout = {int(1000 * IDLE_IN_TRANSACTION_S)}")
        connection.commit()

    return engine


def dumps(value: Any) -> str:
    """JSON that every database takes: what is not a finite number becomes null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
