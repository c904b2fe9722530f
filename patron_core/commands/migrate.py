"""`patron migrate`: bring the lab's database to this Patron's version. Nothing else ever does.

It keeps a backup first, beside a SQLite file or, by pg_dump, in PATRON_HOME/backups, and refuses while attempts live.
Afterwards checkouts of before can still look, pause and cancel; everything else they refuse, with what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from patron_core.ui.script import Arguments, open_command
from patron_core.verbs.migrate import migrate


class MigrateArguments(Arguments):
    backup: bool = Field(default=True, description="keep a copy of the database as it was")
    live: bool = Field(default=False, description="also while attempts are live; this Patron supervises them then")


def main(argv: Sequence[str]) -> int:
    session = open_command(MigrateArguments, argv, prog="migrate", description=__doc__ or "")
    done = session.call(migrate, backup=session.args.backup, live=session.args.live).value
    assert done is not None  # an error has ended the process
    kept = f"; a copy of it as it was is {done.backup}" if done.backup else ""
    text = f"the database was at version {done.old} and is at {done.new}{kept}"
    session.emit(done.to_dict(), text if done.old != done.new else f"the database is at version {done.new} already")
    return 0
