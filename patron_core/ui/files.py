"""Files that a person asked for: a report, a journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.ui import report_page

if TYPE_CHECKING:
    from patron_core.store import Store


def report_button(download: Callable[..., Any], store: Store, run_id: str) -> Any:
    """The report of a run, made when it is asked for. `download` is marimo's. Raises NotFound."""
    return download(
        lambda: report_page.of_run(verbs.report_of_run(store, run_id)).encode(),
        filename=report_page.file_name(verbs.find_run(store, run_id).name, run_id),
        mimetype="text/html",
        label="Report as one file",
    )


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
