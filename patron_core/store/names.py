"""What people and programs may call things: names, projects, keys, actors. Checked where they are written down."""

from __future__ import annotations

from typing import Any

from patron_core.errors import InvalidInput

MAX_NAME_CHARS = 100
_MAX_KEY_CHARS = 300


def check_names(**names: Any) -> None:
    """Raises InvalidInput, with every problem at once, unless each is a text of 1 to 100 visible characters.

    Keyword by keyword: check_names(project=project, name=name). Spaces inside are fine, control characters, line ends,
    NUL and marks that turn the reading direction are not.
    """
    problems = [f"{what}: {problem}" for what, value in names.items() if (problem := _problem(value))]
    if problems:
        raise InvalidInput(problems, next=f"give 1 to {MAX_NAME_CHARS} visible characters, such as lab or d8-first")


def check_key(key: Any) -> None:
    """The same for an idempotency key; one that Patron makes of others may be longer."""
    problem = _problem(key, max_chars=_MAX_KEY_CHARS)
    if problem:
        raise InvalidInput([f"key: {problem}"], next="give 1 to 100 visible characters, or leave the key out")


def _problem(value: Any, max_chars: int = MAX_NAME_CHARS) -> str | None:
    if not isinstance(value, str):
        return f"{value!r} is no text"
    if not value.strip():
        return f"{value!r} has nothing to see"
    if not value.isprintable():
        return f"{value[:max_chars]!r} has characters that cannot be seen"
    if len(value) > max_chars:
        return f"{len(value)} characters, beginning {value[:20]!r}; allowed at most {max_chars}"
    return None
