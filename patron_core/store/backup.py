"""A copy of the database as it is: SQLite's by its own backup, PostgreSQL's by pg_dump. Both at any time."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

from sqlalchemy.engine import URL

from patron_core import settings
from patron_core.errors import Refused, Unavailable
from patron_core.store.engine import Store


def back_up(store: Store, to: Path | None = None) -> Path:
    """The file that was written: `to`, or one that is named by version and time, beside a SQLite file or in
    PATRON_HOME/backups. Never over an existing one. Raises Refused or Unavailable; then there is no file."""
    is_file = store.dialect == "sqlite"
    target = to if to is not None else _usual_place(store, ".db" if is_file else ".dump")
    if target.exists():
        raise Refused(f"{target} is there already", next=shlex.join(["ls", "-la", str(target)]))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_sqlite(str(store.url.database), target) if is_file else _dump(store.url, target)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError | sqlite3.Error):
            raise Unavailable(f"no backup could be written to {target}: {error}", next="df -h") from error
        raise
    return target


def _usual_place(store: Store, ending: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    if store.dialect == "sqlite":
        file = Path(str(store.url.database)).absolute()
        return file.with_name(f"{file.stem}-{store.version}-{stamp}{ending}")
    return settings.make_home() / "backups" / f"{store.url.database}-{store.version}-{stamp}{ending}"


def _copy_sqlite(source: str, target: Path) -> None:
    with sqlite3.connect(source) as old, sqlite3.connect(target) as new:
        old.backup(new)
    old.close()
    new.close()


def _dump(url: URL, target: Path) -> None:
    where = url.set(drivername="postgresql", password=None).render_as_string()
    command = ["pg_dump", "--format=custom", "--file", str(target), "--dbname", where]
    program = _pg_dump()
    if program is None:
        raise Refused(
            f"pg_dump is not on this machine. Back the database up from one that has it: {shlex.join(command)}",
            next="patron migrate --no-backup",
        )
    environ = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    done = subprocess.run([program, *command[1:]], env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no word"])[0]
        raise Refused(f"pg_dump failed: {said}. Back the database up by hand", next="patron migrate --no-backup")


def _pg_dump() -> str | None:
    """Debian keeps the newest out of the PATH."""
    beside = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"), key=lambda path: float(path.parts[4]))
    return shutil.which("pg_dump") or (str(beside[-1]) if beside else None)
