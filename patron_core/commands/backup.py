"""`patron backup`: a copy of the lab's database as it is now, while all goes on. TEAM.md says how to restore it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from patron_core.store import Store
from patron_core.store.backup import back_up
from patron_core.ui.script import Arguments, open_command


class BackupArguments(Arguments):
    to: str = Field(default="", description="the file to write; else beside a SQLite file, or in PATRON_HOME/backups")


def main(argv: Sequence[str]) -> int:
    session = open_command(BackupArguments, argv, prog="backup", description=__doc__ or "")
    file = session.call(_back_up, session.args.to).value
    session.emit({"backup": str(file)}, str(file))
    return 0


def _back_up(to: str) -> Path:
    store = Store.open()
    try:
        return back_up(store, Path(to).expanduser().absolute() if to else None)
    finally:
        store.close()
