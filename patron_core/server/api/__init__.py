"""The verbs over HTTP. No logic of its own: a route checks a shape, calls one verb, and shows what it returned."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic.fields import FieldInfo

from patron_core.server.api import access, events, looking, money, notes, runs, words
from patron_core.server.api.common import KEY, PREFIX

__all__ = ["PARTS", "PREFIX", "Operation", "add_api", "operations"]


PARTS = (runs, looking, events, money, notes, words, access)


def add_api(app: FastAPI) -> None:
    for part in PARTS:
        app.include_router(part.router, prefix=PREFIX)


class Operation(NamedTuple):
    """One route, and what it takes: `?runs&keys`, `{depths*,devices}`, `K` for an Idempotency-Key; * is required."""

    name: str
    method: str
    path: str
    summary: str
    takes: str

    @property
    def for_a_person(self) -> bool:
        return self.summary.endswith("for a person")


def operations() -> list[Operation]:
    """Every route."""
    found = [route for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)]
    return [
        Operation(route.name, method, PREFIX + route.path, route.summary or "", _takes(route))
        for route in found
        for method in sorted(route.methods or ())
    ]


def _takes(route: APIRoute) -> str:
    asked = "&".join(_starred(each.alias, each.field_info) for each in route.dependant.query_params)
    body: Any = route.body_field.field_info.annotation if route.body_field else None
    fields = ",".join(_starred(name, field) for name, field in body.model_fields.items()) if body else ""
    key = any(each.alias == KEY for each in route.dependant.header_params)
    return (f"?{asked}" if asked else "") + (f" {{{fields}}}" if fields else "") + (" K" if key else "")


def _starred(name: str, field: FieldInfo) -> str:
    return f"{name}*" if field.is_required() else name
