"""The verbs over HTTP. No logic of its own: a route checks a shape, calls one verb, and shows what it returned."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute

from patron_core.server.api import access, events, looking, money, notes, runs, words
from patron_core.server.api.common import PREFIX

__all__ = ["PARTS", "PREFIX", "add_api", "operations"]


PARTS = (runs, looking, events, money, notes, words, access)


def add_api(app: FastAPI) -> None:
    for part in PARTS:
        app.include_router(part.router, prefix=PREFIX)


def operations() -> list[tuple[str, str, str, str]]:
    """(name, method, path, what it is for) of every route."""
    found = [route for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)]
    return [
        (route.name, method, PREFIX + route.path, route.summary or "")
        for route in found
        for method in sorted(route.methods or ())
    ]
