"""The wallet, what moved, and what waits for a person."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from patron_core import verbs
from patron_core.server.answers import Answer
from patron_core.server.api.common import DEFAULT, Asker, Body, Key, Micros, Project, Word

router = APIRouter(tags=["money"])


class Deposit(Body):
    project: Word = DEFAULT
    usd_micros: Micros


class Decision(Body):
    decision: Literal["approved", "refused"]
    word: str = Field(default="", max_length=1000)


@router.get("/projects", summary="Projects, with how many runs each has")
def projects(caller: Asker) -> Answer:
    return Answer({"projects": verbs.lab(caller.store, limit=1).projects})


@router.get("/lab", summary="A project at a glance: runs that need attention, money, whether the books add up")
def lab(caller: Asker, project: Project = DEFAULT, limit: Annotated[int, Query(ge=1, le=500)] = 20) -> Answer:
    return Answer(verbs.lab(caller.store, project, limit=limit).to_dict())


@router.get("/wallet", summary="What a project may still hold, holds and has spent")
def wallet(caller: Asker, project: Project = DEFAULT) -> Answer:
    return Answer(verbs.wallet_dict(verbs.wallet(caller.store, project)))


@router.get("/ledger", summary="What moved, newest first")
def ledger(caller: Asker, project: Project = DEFAULT, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Answer:
    return Answer({"transfers": [asdict(line) for line in verbs.statement(caller.store, project, limit)]})


@router.post("/deposits", summary="Authorise spending: for a person")
def deposit(body: Deposit, caller: Asker, key: Key) -> Answer:
    own = f"deposit:{caller.key(key)}"
    found = verbs.deposit(caller.store, project=body.project, usd_micros=body.usd_micros, key=own, actor=caller.actor)
    return Answer(verbs.wallet_dict(found))


@router.get("/approvals", summary="Holds that wait for a person's word")
def approvals(caller: Asker) -> Answer:
    return Answer({"approvals": [asked.to_dict() for asked in verbs.waiting(caller.store)]})


@router.post("/approvals/{approval}", summary="Approve or refuse, with a word: for a person")
def decide(approval: Word, body: Decision, caller: Asker) -> Answer:
    return Answer(verbs.decide(caller.store, approval, body.decision, word=body.word, actor=caller.actor).to_dict())
