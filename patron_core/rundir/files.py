"""Small files that others may read or write at this moment, or that a crash may have torn."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from trainer.contract import shapes


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no file, or no whole object in it."""
    try:
        return to_object(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def to_object(content: bytes | None) -> dict[str, Any] | None:
    """The object in a JSON text; None where there is no whole one."""
    return shapes.object_of(content)


def write_json(path: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """All of it or nothing; `durable` also over a power cut."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def tail(path: Path, lines: int) -> str:
    """The last lines of a text file, read from its end; empty if there is no file."""
    block_bytes = 64 * 1024
    content = b""
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            while position > 0 and content.count(b"\n") <= lines:
                step = min(block_bytes, position)
                position = file.seek(position - step)
                content = file.read(step) + content
    except FileNotFoundError:
        return ""
    return "\n".join(content.decode("utf-8", errors="replace").splitlines()[-lines:]) if lines > 0 else ""
