"""`patron settings`: all that can be set by an environment variable, as it is here. Passwords are masked."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pydantic import Field

from patron_core.settings import SETTINGS, Setting
from patron_core.ui.script import Arguments, open_command
from trainer.contract.urls import mask


class SettingsArguments(Arguments):
    markdown: bool = Field(default=False, description="print the table of TEAM.md, with defaults only")


def main(argv: Sequence[str]) -> int:
    session = open_command(SettingsArguments, argv, prog="settings", description=__doc__ or "")
    values = {name: _shown(row) for name, row in SETTINGS.items()}
    width = max(map(len, SETTINGS))
    lines = [
        f"{name:<{width}}  {values[name] or row.default or 'not set'}{'' if values[name] else ' (default)'}\n"
        f"{'':<{width}}  {row.what.replace('`', '')} ({row.kind})"
        for name, row in SETTINGS.items()
    ]
    answer = {
        name: {"value": values[name] or None, "default": row.default or None, "kind": row.kind, "what": row.what}
        for name, row in SETTINGS.items()
    }
    session.emit({"settings": answer}, markdown() if session.args.markdown else "\n".join(lines))
    return 0


def _shown(row: Setting) -> str:
    value = os.environ.get(row.name, "")
    return "(a secret)" if value and row.kind == "secret" else mask(value)


def markdown() -> str:
    """The table, as notebooks/TEAM.md has it."""
    rows = [
        f"| `{row.name}` | {f'`{row.default}`' if row.default else ''} | {row.kind} | {row.what} |"
        for row in SETTINGS.values()
    ]
    return "\n".join(["| variable | default | kind | what it is |", "|---|---|---|---|", *rows])
