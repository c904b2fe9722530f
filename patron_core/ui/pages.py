"""Where notebooks are: each at a path of its own under `patron serve`, or by `?file=` in a folder's gallery."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

_served = False  # by this process, each at its own path


def serve_by_path() -> None:
    """From now on this process serves notebooks at /watch/ and so on."""
    global _served
    _served = True


def word(stem: str) -> str:
    """4_watch -> watch: what commands and addresses call a notebook."""
    return re.sub(r"^\d+_", "", stem)


def page(params: Mapping[str, Any], notebook: str, **query: str) -> str | None:
    """The address of another notebook. None where this one is served alone, and in scripts."""
    if _served:
        carried = {"project": str(params["project"])} if "project" in params else {}
        asked = urlencode(carried | query)
        return f"/{word(notebook)}/" + (f"?{asked}" if asked else "")
    if "file" not in params:
        return None
    folder = str(params["file"]).rpartition("/")[0]
    file = f"{folder}/{notebook}.py" if folder else f"{notebook}.py"
    return "?" + urlencode({"file": file, **query})
