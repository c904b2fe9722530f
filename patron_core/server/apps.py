"""The notebooks as marimo apps, each at its path. The only module of the core that knows marimo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from patron_core.server.pages import Notebook
from patron_core.ui.pages import serve_by_path

SESSION_TTL_S = 120  # a page that lost its connection finds its session again within so long


def notebook_apps(found: Sequence[Notebook], *, head: str) -> Any:
    """An ASGI app. `head` goes into the head of every page. It knows no visitors: the gate in front of it does."""
    import marimo

    serve_by_path()
    builder = marimo.create_asgi_app(quiet=True, include_code=False, session_ttl=SESSION_TTL_S, html_head=head)
    for note in found:
        builder = builder.with_app(path=note.path, root=str(note.file))
    return builder.build()
