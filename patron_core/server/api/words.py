"""What people are told, and what is said of Patron: alerts, feedback."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from patron_core import verbs
from patron_core.server.answers import Answer
from patron_core.server.api.common import Asker, Body, Key, Word

router = APIRouter(tags=["words"])


class Seen(Body):
    up_to: Annotated[int, Field(ge=1, le=10**15, description="the newest alert that was seen")]


class Said(Body):
    body: str = Field(min_length=1, max_length=10_000, examples=["The dryrun's error did not say which field."])
    about: str = Field(default="", max_length=200, description="a run, a command, a page")


class Reply(Body):
    answer: str = Field(min_length=1, max_length=10_000)


@router.get("/alerts", summary="What people are told of, newest first")
def list_alerts(
    caller: Asker,
    project: Annotated[Word | None, Query()] = None,
    kind: Annotated[verbs.AlertKind | None, Query()] = None,
    unseen: Annotated[bool, Query(description="only what nobody put away")] = False,
    before: Annotated[int | None, Query(ge=1, le=10**15, description="`cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Answer:
    found = verbs.list_alerts(caller.store, project=project, kind=kind, unseen=unseen, before=before, limit=limit)
    cursor = found[-1].id if len(found) == limit else None
    return Answer({"alerts": [alert.to_dict() for alert in found], "cursor": cursor})


@router.post("/alerts/seen", summary="Put alerts away: for a person")
def see_alerts(body: Seen, caller: Asker) -> Answer:
    return Answer({"seen": verbs.see_alerts(caller.store, up_to=body.up_to, actor=caller.actor)})


@router.post("/alerts/test", summary="Send one by each channel: for a person")
def send_test_alert(caller: Asker) -> Answer:
    return Answer(verbs.send_test_alert(caller.store, actor=caller.actor).to_dict())


@router.get("/feedback", summary="What was said of Patron, and the owner's answers")
def list_feedback(
    caller: Asker,
    by: Annotated[Word | None, Query(description="only of this actor")] = None,
    unanswered: Annotated[bool, Query()] = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Answer:
    found = verbs.list_feedback(caller.store, by=by, unanswered=unanswered, limit=limit)
    return Answer({"feedback": [each.to_dict() for each in found]})


@router.post("/feedback", summary="Say what works, what does not, what is missing", status_code=201)
def give_feedback(body: Said, caller: Asker, key: Key) -> Answer:
    given = verbs.give_feedback(caller.store, body.body, about=body.about, actor=caller.actor, key=caller.key(key))
    return Answer(given.to_dict(), status_code=201)


@router.post("/feedback/{feedback}", summary="Answer it: for a person")
def answer_feedback(feedback: Word, body: Reply, caller: Asker) -> Answer:
    return Answer(verbs.answer_feedback(caller.store, feedback, body.answer, actor=caller.actor).to_dict())
