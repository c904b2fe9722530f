"""Small files that others may read or write at this moment, or that a crash may have torn."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from trainer.contract.files import read_bounded, write_atomic
from trainer.contract.shapes import object_of

MAX_TAIL_BYTES = 2**20  # of a log without line ends


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no file, or no whole object in it. Raises OSError where a disk refuses."""
    try:
        return object_of(read_bounded(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_json(path: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """All of it or nothing, for this user's eyes; `durable` also over a power cut."""
    write_atomic(path, json.dumps(content), durable=durable, mode=0o600)


def tail(path: Path, lines: int) -> str:
    """The last lines of a text file, read from its end; empty if there is no file."""
    block_bytes = 64 * 1024
    content = b""
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            while position > 0 and content.count(b"\n") <= lines and len(content) < MAX_TAIL_BYTES:
                step = min(block_bytes, position)
                position = file.seek(position - step)
                content = file.read(step) + content
    except FileNotFoundError:
        return ""
    return "\n".join(content.decode("utf-8", errors="replace").splitlines()[-lines:]) if lines > 0 else ""
