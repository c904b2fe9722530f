"""The journal, and searches."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from patron_core import verbs
from patron_core.server.answers import Answer
from patron_core.server.api.common import DEFAULT, Asker, Body, Key, Micros, Project, RunWord, Word
from patron_core.store import notes as store_notes
from patron_core.store import searches as store_searches
from patron_core.ui import background
from patron_core.verbs.journal import MAX_BODY_CHARS

router = APIRouter(tags=["notes"])


class NewNote(Body):
    body: str = Field(min_length=1, max_length=MAX_BODY_CHARS, description="Markdown")
    title: str = Field(default="", max_length=300)
    kind: Word = Field(default="note", description=", ".join(verbs.KINDS))
    project: Word = DEFAULT
    run: RunWord | None = None


class Revision(NewNote):
    base_revision: int = Field(ge=1, le=10**6, description="the revision that you read; another since then is a 409")


class Ask(Body):
    minutes: Annotated[float, Field(gt=0, le=10_080, allow_inf_nan=False)] = 1.0
    budget_usd_micros: Micros = 50_000
    depths: list[Annotated[int, Field(ge=1, le=64)]] = Field(default=[1, 2, 3, 4, 6], min_length=1, max_length=20)
    time_limit_minutes: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] = 5.5
    project: Word = DEFAULT


@router.get("/notes", summary="Notes, last changed first; `text` is looked for in title and body")
def read_notes(
    caller: Asker,
    project: Project = DEFAULT,
    run: Annotated[RunWord | None, Query()] = None,
    kind: Annotated[Word | None, Query()] = None,
    text: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Answer:
    run_id = verbs.find_run(caller.store, run).id if run else None
    found = verbs.read_notes(caller.store, project=project, run_id=run_id, kind=kind, text=text)
    return Answer({"notes": [asdict(note) for note in found[:limit]], "left_out": max(0, len(found) - limit)})


@router.post("/notes", summary="Write a note", status_code=201)
def write_note(body: NewNote, caller: Asker, key: Key) -> Answer:
    written = _fields(body, caller)
    return Answer(asdict(verbs.write_note(caller.store, **written, key=caller.key(key))), status_code=201)


@router.get("/notes/{note}", summary="A note with its revisions")
def read_note(note: Word, caller: Asker) -> Answer:
    found = verbs.read_note(caller.store, note)
    revisions = [asdict(each) for each in store_notes.revisions(caller.store, found.id)]
    return Answer(asdict(found) | {"revisions": revisions})


@router.put("/notes/{note}", summary="A new revision of a note; the older ones stay")
def revise(note: Word, body: Revision, caller: Asker) -> Answer:
    written = _fields(body, caller)
    return Answer(asdict(verbs.write_note(caller.store, **written, note_id=note, base_revision=body.base_revision)))


@router.get("/searches", summary="Searches, newest first")
def list_searches(caller: Asker, project: Project = DEFAULT) -> Answer:
    found = store_searches.list_searches(caller.store, project=project, limit=50)
    return Answer({"searches": [{"search": s.id, "key": s.key, "state": s.state} for s in found]})


@router.post("/searches", summary="Which depth is best here, for at most a budget? Runs by itself", status_code=202)
def search(body: Ask, caller: Asker, key: Key) -> Answer:
    question = verbs.Question(
        minutes=body.minutes,
        budget_usd_micros=body.budget_usd_micros,
        depths=tuple(body.depths),
        time_limit_minutes=body.time_limit_minutes,
    )
    question.check()
    own = caller.key(key)
    work = background.start(
        f"api:{body.project}:{own}",
        lambda _: verbs.search(caller.store, question, project=body.project, actor=caller.actor, key=own),
    )
    said = {"key": own, "done": work.done, "error": (work.error or {}).get("error"), "next": "GET /api/searches"}
    return Answer(said, status_code=202)


@router.get("/searches/{search}", summary="A search: its question, its decisions, its result")
def read_search(search: Word, caller: Asker) -> Answer:
    return Answer(asdict(store_searches.get(caller.store, search)))


def _fields(body: NewNote, caller: Asker) -> dict[str, Any]:
    run_id = verbs.find_run(caller.store, body.run).id if body.run else None
    given = {"project": body.project, "body": body.body, "title": body.title, "kind": body.kind}
    return given | {"run_id": run_id, "actor": caller.actor}
