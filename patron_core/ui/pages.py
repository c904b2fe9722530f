"""Where notebooks are: each at a path of its own under `patron serve`, or by `?file=` in a folder's gallery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from patron_core.ui.commands import name_of

_served = False  # by this process, each at its own path


def serve_by_path() -> None:
    """From now on this process serves notebooks at /watch/ and so on."""
    global _served
    _served = True


def page(
    params: Mapping[str, Any], notebook: str, asked_for: Iterable[tuple[str, str]] = (), **query: str
) -> str | None:
    """The address of another notebook. None where this one is served alone, and in scripts.

    `asked_for`: more of its query; a name may be there several times.
    """
    pairs = [*query.items(), *asked_for]
    if _served:
        is_carried = "project" in params and "project" not in dict(pairs)
        asked = urlencode([*([("project", str(params["project"]))] if is_carried else []), *pairs])
        return f"/{name_of(Path(notebook))}/" + (f"?{asked}" if asked else "")
    if "file" not in params:
        return None
    folder = str(params["file"]).rpartition("/")[0]
    file = f"{folder}/{notebook}.py" if folder else f"{notebook}.py"
    return "?" + urlencode([("file", file), *pairs])
