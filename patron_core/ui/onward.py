"""The way on: a command of Patron as a button that leads to the page where the same is done, and carries what it names.

    onward.buttons(params, "patron launch --run r1 --yes")      Fund and launch   patron launch --run r1 --yes

Nothing is done by following one: a page begins with what the command says, and waits for a press. Pure.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patron_core.money import parse_usd, to_usd
from patron_core.ui import inert
from patron_core.ui.commands import as_typed, is_command
from patron_core.ui.pages import page

_NOTEBOOKS = {
    "lab": "0_lab",
    "estimate": "1_estimate",
    "dryrun": "2_dryrun",
    "launch": "3_launch",
    "watch": "4_watch",
    "compare": "5_compare",
    "journal": "6_journal",
    "doctor": "doctor",
    "search": "search",
    "sweep": "sweep",
}
_WORDS = {
    "lab": "To the lab",
    "estimate": "Estimate",
    "dryrun": "Prove it",
    "launch": "Fund and launch",
    "watch": "Watch it",
    "compare": "Compare",
    "journal": "Write it down",
    "doctor": "See what is missing",
    "search": "Search",
    "sweep": "Sweep",
}
MOST_DOLLARS = 1e6  # in a field
_SAID_BY_A_PRESS = {"yes", "json", "key", "follow", "spec", "timeout_s"}  # or a file of whoever types it


@dataclass(frozen=True, kw_only=True)
class Step:
    words: str  # on the button
    notebook: str
    query: tuple[tuple[str, str], ...]  # what the command names, by flag


def step(command: str) -> Step | None:
    """Where a command leads. None for what is no command of ours, or has no page."""
    if not is_command(command):
        return None
    program, name, *rest = shlex.split(command)
    if program != "patron" or name not in _NOTEBOOKS:
        return None
    query = tuple((flag, value) for flag, value in _flags(rest) if flag not in _SAID_BY_A_PRESS)
    if "workload" in dict(query):
        return None  # an address fills no form with code that a press would run: it is typed
    return Step(words=_words(name, dict(query)), notebook=_NOTEBOOKS[name], query=query)


def address(params: Mapping[str, Any], command: str) -> str | None:
    """The page where the command is done. None where this notebook is served alone, and in scripts."""
    found = step(command)
    return None if found is None else page(params, found.notebook, found.query)


def buttons(params: Mapping[str, Any], *commands: str, words: str = "") -> inert.Markdown:
    """Markdown: a button for each, and the command beside it; only the command where there is no page to go to.
    `words`: on the button, in the place of the usual."""
    lines = []
    for command in dict.fromkeys(filter(None, commands)):
        found, href = step(command), address(params, command)
        said = inert.code(as_typed(command)) if is_command(command) else inert.md("{}", command)
        if found is not None and href is not None:
            said = inert.md("{}{}", inert.button(words or found.words, href), said)
        lines.append(said)
    return inert.paragraphs(lines)


def problem(params: Mapping[str, Any], error: Mapping[str, Any] | None) -> inert.Markdown:
    """An error in its one shape, with its advice as a button where a page can take it."""
    shape = (error or {}).get("error", {})
    return inert.error(shape, buttons(params, str(shape.get("next", ""))))


def no_such_project(params: Mapping[str, Any], known: Iterable[str], *, shown: str) -> inert.Markdown:
    """What a page says where its address names a project that nobody made; nothing where it names none."""
    asked = str(params.get("project") or "")
    if not asked or asked in known:
        return inert.md("")
    said = inert.md("There is no project {} yet: its first run or note makes it. What is shown is of {}.", asked, shown)
    return inert.paragraphs([said, buttons(params, shlex.join(["patron", "dryrun", "--project", asked]), "patron lab")])


def dollars(params: Mapping[str, Any], name: str) -> float:
    """An amount that an address fills a field with. What is none is nothing: nothing is done before a press."""
    try:
        return min(max(to_usd(parse_usd(str(params.get(name, "0")))), 0.0), MOST_DOLLARS)
    except ValueError:
        return 0.0


def _words(name: str, query: Mapping[str, str]) -> str:
    if name == "dryrun" and "run" not in query:
        return "Plan this"
    if name == "lab" and "deposit" in query:
        return "Put money in"
    if name == "journal" and query.get("kind") == "failed":
        return "Write down that it failed"
    return _WORDS[name]


def _flags(words: Sequence[str]) -> list[tuple[str, str]]:
    """(flag, value) of a command line that we wrote; a switch is true, or false by its --no-... form."""
    found: list[tuple[str, str]] = []
    for word in words:
        name = word.removeprefix("--").replace("-", "_")
        if word.startswith("--"):
            found.append((name.removeprefix("no_"), "false" if name.startswith("no_") else "true"))
        elif found:
            found[-1] = (found[-1][0], word)
    return found
