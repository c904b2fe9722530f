"""The installed `patron`: one word for everything that can be run.

patron watch --run RUN        the notebook 4_watch.py as a script; each file in notebooks/ is a command by its name
patron gc --yes               a module of this package, named in TABLE
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from patron_core import settings
from patron_core.errors import InvalidInput
from patron_core.ui.commands import live_in_utf8, name_of
from patron_core.ui.flags import refuse
from trainer.contract.words import printable

# name -> (module with main(argv) -> exit code, imported only when asked for; what `patron --help` says of it)
TABLE = {
    "alerts": ("patron_core.commands.alerts", "What people are told of; --test sends one."),
    "approve": ("patron_core.commands.approve", "Approve or refuse what a token asked to hold, with a word."),
    "measure": ("patron_core.commands.measure", "What this machine reaches; every estimate of it begins there."),
    "feedback": ("patron_core.commands.feedback", "Say what you think of Patron; answer what others said."),
    "migrate": ("patron_core.commands.migrate", "Bring the database to this Patron's version, with a backup."),
    "backup": ("patron_core.commands.backup", "Copy the database as it is now, while everything goes on."),
    "settings": ("patron_core.commands.environment", "All that can be set, and what it is here."),
    "gc": ("patron_core.commands.gc", "List, or end, what costs money or disk though no run needs it."),
    "reference": ("patron_core.commands.reference", "The library of a notebook of your own, with a cheat sheet."),
    "report": ("patron_core.commands.report", "A run, a search or a sweep as one HTML file that opens offline."),
    "mcp": ("patron_core.commands.mcp", "An MCP server over stdio: the verbs as tools."),
    "runs": ("patron_core.commands.runs", "Runs by state, tag and words; their metrics, logs, checkpoints, ledger."),
    "serve": ("patron_core.commands.serve", "Serve the lab on one port: the notebooks as apps, and the API."),
    "skill": ("patron_core.commands.skill", "The page for agents; installs it as a skill."),
    "stop": ("patron_core.commands.stop", "The kill switch: pause what runs, with checkpoints, and cancel dryruns."),
    "token": ("patron_core.commands.token", "Make, list and revoke tokens for people and agents."),
    "supervise": ("patron_core.lifecycle.supervisor", "Look after live runs until none is left."),
}


def notebooks() -> dict[str, Path]:
    """The file of each notebook by its command: 4_watch.py is `watch`."""
    files = sorted(settings.shipped("notebooks").glob("*.py"))
    return {name_of(file): file for file in files}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Notebooks end the process by themselves, as they do when they are the program."""
    live_in_utf8()
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h", "help"):
        print(printable(_help()))
        return 0
    if name in TABLE:
        code: int = import_module(TABLE[name][0]).main(rest)
        return code
    files = notebooks()
    if name not in files:
        problem = f"there is no command {name!r}; allowed {', '.join([*files, *TABLE])}"
        refuse(InvalidInput([problem], next="patron --help"), as_json="--json" in rest)
    sys.argv = [str(files[name]), *rest]
    runpy.run_path(str(files[name]), run_name="__main__")
    return 0


def _help() -> str:
    """One line for each command."""
    lines = {name: _first_line(file) for name, file in notebooks().items()}
    lines |= {name: line for name, (_, line) in TABLE.items()}
    width = max(map(len, lines))
    listed = "\n".join(f"    {name:<{width}}  {line}" for name, line in lines.items())
    return f"Budgeted language-model pretraining. `patron NAME --help` says more.\n\n{listed}\n"


def _first_line(notebook: Path) -> str:
    """What a notebook says of itself in its first line: `Watch: one run, live.`"""
    with notebook.open(encoding="utf-8") as file:
        said = file.readline().strip().strip('"').partition(": ")[2]
    return said[:1].upper() + said[1:]
