"""Files that a person asked for: a report, a journal."""

from __future__ import annotations

from pathlib import Path

from patron_core.errors import InvalidInput


def write(where: str, text: str, *, name: str) -> Path:
    """Into the file `where`, or as `name` into the folder. Raises InvalidInput where that cannot be written."""
    path = Path(where or ".").expanduser()
    file = path / name if path.is_dir() or where.endswith("/") else path
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            [f"--out {file}: {error.strerror or error}"], next="name a file that can be written"
        ) from None
    return file.resolve()
