"""Database errors in Patron's words: what happened, where, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, TimeoutError

from patron_core.errors import Busy, Conflict, InternalError, PatronError, Unavailable

_LOCKED = (
    "locked",
    "is busy: another process has been writing for too long",
    "fuser {file}",
)
# (part of the database's own message, what it means, what to do)
_SQLITE: tuple[tuple[str, str, str], ...] = (
    _LOCKED,
    ("disk is full", "cannot grow: the disk is full; nothing of this change was written", "df -h"),
    ("disk i/o error", "cannot be read or written: the disk reports an error", "df -h"),
    ("unable to open", "cannot be opened", "export PATRON_HOME=/a/folder/you/can/write"),
    ("readonly", "may not be written by this user", "ls -la {file}"),
    ("not a database", "is not a SQLite database", "move the file away, or point PATRON_DATABASE_URL elsewhere"),
    ("malformed", "is damaged", "restore it from a backup; sqlite3 FILE .recover saves what can be read"),
)
# SQLSTATE -> the same
_POSTGRESQL: dict[str, tuple[str, str]] = {
    "55P03": ("is busy: another transaction has held the same rows for too long", "try again"),
    "40P01": ("stopped this change, since it and another waited for each other; nothing was written", "try again"),
    "40001": ("stopped this change, since another came first; nothing was written", "try again"),
    "53100": ("cannot grow: its disk is full; nothing of this change was written", "free disk space on the server"),
    "53300": ("has no connection left", "close other clients or raise max_connections"),
    "57P03": ("is starting up or shutting down", "try again in a moment"),
}
_PASSING = frozenset({"55P03", "53300", "57P03"})  # the same again, a moment later, may do


@contextmanager
def translated(url: URL) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise Busy(
            f"{_shown(url)}: every connection of this process is in use", next="try again with fewer threads"
        ) from error
    except IntegrityError as error:
        # the callers check first, so that this is a promise of ours that broke
        raise InternalError(f"{_shown(url)} refused a row: {_first_line(error)}", next="report this message") from error
    except DBAPIError as error:
        fault = _postgresql(error, url) if url.get_backend_name() == "postgresql" else _sqlite(error, url)
        if fault is None:
            raise
        raise fault from error


def _sqlite(error: DBAPIError, url: URL) -> PatronError | None:
    said = str(error.orig).lower()
    for part, meaning, then in _SQLITE:
        if part in said:
            kind = Busy if part == _LOCKED[0] else Unavailable
            return kind(
                f"the database {url.database} {meaning} ({_first_line(error)})",
                next=then.format(file=shlex.quote(str(url.database))),
            )
    return None


def _postgresql(error: DBAPIError, url: URL) -> PatronError | None:
    state = getattr(error.orig, "sqlstate", None)
    if state in _POSTGRESQL:
        meaning, then = _POSTGRESQL[state]
        if state in _PASSING:
            return Busy(f"the database {_shown(url)} {meaning}", next=then)
        kind = Conflict if state in ("40P01", "40001") else Unavailable
        return kind(f"the database {_shown(url)} {meaning}", next=then)
    if isinstance(error, OperationalError) or error.connection_invalidated:
        return Busy(
            f"the database {_shown(url)} does not answer: {_first_line(error)}",
            next=f"pg_isready -h {shlex.quote(url.host or 'localhost')}",
        )
    return None


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _first_line(error: DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__
