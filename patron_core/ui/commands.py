"""Commands as a shell takes them: what an error's `next` is, where it is one, and what stands in where it is advice."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

LOOK = "patron lab"  # changes nothing, and shows what waits

_PROGRAMS = (
    "aws",
    "df",
    "export",
    "fuser",
    "gcloud",
    "git",
    "iconv",
    "ls",
    "patron",
    "pg_isready",
    "python",
    "sky",
    "uv",
)
_STARTED_BY_UV = "UV_RUN_RECURSION_DEPTH"  # what `uv run` sets, and an environment that was activated does not
_OWN = re.compile(r"(?<!uv run )\bpatron ([a-z]+\b(?= --| [A-Z]|\.?(?:$|\n))|--help)")
_ADVICE = re.compile(r", | \(|\bor\b|<|\.\.\.")  # words that are read, not run


def is_command(text: str) -> bool:
    """Whether it can be run as it stands."""
    try:
        words = shlex.split(text)
    except ValueError:
        return False
    plain = re.sub(r"'[^']*'|\"[^\"]*\"", "", text)
    return len(words) > 1 and words[0] in _PROGRAMS and not _ADVICE.search(plain)


def name_of(notebook: Path) -> str:
    """Its command: notebooks/4_watch.py is `patron watch`."""
    return re.sub(r"^\d+_", "", notebook.stem)


def as_typed(text: str) -> str:
    """With `uv run` before each of Patron's own commands where that started this process: the shell that it was typed
    into need not know `patron`, which lives in the environment of a checkout."""
    return _OWN.sub(r"uv run patron \1", text) if _STARTED_BY_UV in os.environ else text


def own_command(name: str, argv: Sequence[str]) -> str:
    """A command as it was started, without what only shapes the answer."""
    return shlex.join(["patron", name, *(word for word in argv if word != "--json")])


def is_same(command: str, other: str) -> bool:
    """Whether two command lines ask for the same, in whatever order of flags."""
    try:
        return sorted(shlex.split(command)) == sorted(shlex.split(other))
    except ValueError:
        return False


def utf8(words: Sequence[str]) -> list[str]:
    """Arguments as they were typed: a locale that forces ASCII hands on bytes that it cannot read as surrogates."""
    return [os.fsencode(word).decode("utf-8", "replace") for word in words]


def live_in_utf8() -> None:
    """Start this program again in Python's UTF-8 mode where its locale is another, and what it starts with it.

    Names of files are bytes, and a locale that forces ASCII can name no folder with a letter of its own.
    """
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.orig_argv[0], "-X", "utf8", *sys.orig_argv[1:]])


def speak_utf8() -> None:
    """Whatever the locale says, what is read, printed and named is UTF-8."""
    live_in_utf8()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
