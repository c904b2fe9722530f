"""Tokens and the audit log: for persons, and for a token what it may do itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from patron_core import verbs
from patron_core.server.answers import Answer
from patron_core.server.api.common import Asker, Body, Micros, Word
from patron_core.store import allowances, tokens
from patron_core.store.tokens import Allowance

router = APIRouter(tags=["access"])


class Limits(Body):
    total_usd_micros: Micros | None = None
    day_usd_micros: Micros | None = None
    run_usd_micros: Micros | None = None
    usd_micros_per_hour: Micros | None = None
    approve_above_usd_micros: Micros | None = None
    runs_at_once: Annotated[int, Field(ge=1, le=10_000)] | None = None
    devices: list[Word] = Field(default=[], max_length=50)
    executors: list[Word] = Field(default=[], max_length=20)


class NewToken(Body):
    name: Word
    scopes: list[Word] = Field(default=["read"], max_length=10)
    allowance: Limits = Limits()
    expires_in_s: Annotated[float, Field(gt=0, le=4e8, allow_inf_nan=False)] = 30 * 86_400.0


@router.get("/me", summary="Who you are, what you may do, and what your holds bind or have spent")
def me(caller: Asker) -> Answer:
    token = caller.visitor.token
    with caller.store.read() as conn:
        held = sum(allowances.holds(conn, caller.actor).values())
    said = token.to_dict() if token else {"token": None, "scopes": list(tokens.SCOPES), "allowance": None}
    return Answer(said | {"name": caller.actor, "held_or_spent_usd_micros": held})


@router.get("/tokens", summary="Tokens: for a person")
def list_tokens(caller: Asker) -> Answer:
    _person(caller)
    return Answer({"tokens": [token.to_dict() for token in verbs.list_tokens(caller.store)]})


@router.post("/tokens", summary="Make one; its secret is told this once: for a person", status_code=201)
def make_token(body: NewToken, caller: Asker) -> Answer:
    allowance = Allowance.from_dict(body.allowance.model_dump())
    token, secret = verbs.make_token(
        caller.store,
        name=body.name,
        scopes=tuple(body.scopes),
        allowance=allowance,
        expires_in_s=body.expires_in_s,
        actor=caller.actor,
    )
    return Answer(token.to_dict() | {"secret": secret}, status_code=201)


@router.delete("/tokens/{token}", summary="Revoke it: for a person")
def revoke(token: Word, caller: Asker) -> Answer:
    return Answer(verbs.revoke_token(caller.store, token, actor=caller.actor).to_dict())


@router.get("/audit", summary="Who changed what, newest first")
def audit(
    caller: Asker,
    actor: Annotated[Word | None, Query()] = None,
    before: Annotated[int | None, Query(ge=1, le=10**15, description="`cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Answer:
    found = verbs.audit_log(caller.store, actor=actor, before=before, limit=limit)
    return Answer(
        {"calls": [entry.to_dict() for entry in found], "cursor": found[-1].id if len(found) == limit else None}
    )


def _person(caller: Asker) -> None:
    if caller.visitor.token is not None:
        tokens.check_scope(caller.visitor.token, "admin", "see tokens")
