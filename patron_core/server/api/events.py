"""What happened to runs, as it happens: since a cursor, by waiting or as a stream. Nobody has to poll."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from patron_core.errors import Busy
from patron_core.server.answers import Answer
from patron_core.server.api.common import Asker, Caller, RunWord, Word
from patron_core.store import runs

router = APIRouter(tags=["events"])
LOOK_EVERY_S = 1.0
MAX_WAIT_S = 60.0
MAX_STREAMS = 100  # of the whole server: beyond that a stream is refused at once
SILENCE_S = 15.0  # then a comment is sent, so that a dead peer is noticed

_open_streams = 0


@router.get("/events", summary="What happened since a cursor; waits for `wait_s` where nothing has")
async def read_events(
    caller: Asker,
    cursor: Annotated[int, Query(ge=0, le=10**15, description="`cursor` of the answer before; 0: from the start")] = 0,
    run: Annotated[RunWord | None, Query()] = None,
    project: Annotated[Word | None, Query()] = None,
    wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)] = 0.0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Answer:
    end = time.monotonic() + wait_s
    with _Place(wait_s > 0):
        while True:
            found = await run_in_threadpool(_events, caller, cursor, run, project, limit)
            if found or time.monotonic() >= end:
                return Answer({"events": found, "cursor": found[-1]["id"] if found else cursor})
            await asyncio.sleep(min(LOOK_EVERY_S, max(0.05, end - time.monotonic())))


@router.get("/events/stream", summary="The same as server-sent events", response_class=StreamingResponse)
async def stream(
    caller: Asker,
    cursor: Annotated[int, Query(ge=0, le=10**15)] = 0,
    run: Annotated[RunWord | None, Query()] = None,
    project: Annotated[Word | None, Query()] = None,
    last_event_id: Annotated[str, Header(alias="Last-Event-ID", max_length=20)] = "",
) -> Response:
    start = int(last_event_id) if last_event_id.isdecimal() and last_event_id.isascii() else cursor
    await run_in_threadpool(_events, caller, start, run, project, 1)  # what is wrong with it is said before it begins
    place = _Place(True)
    place.__enter__()
    return StreamingResponse(_lines(place, caller, start, run, project), media_type="text/event-stream")


async def _lines(
    place: _Place, caller: Caller, cursor: int, run: str | None, project: str | None
) -> AsyncIterator[str]:
    said = time.monotonic()
    try:
        while True:
            for event in await run_in_threadpool(_events, caller, cursor, run, project, 200):
                cursor, said = event["id"], time.monotonic()
                yield f"id: {cursor}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n"
            if time.monotonic() - said > SILENCE_S:
                said = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        place.__exit__()


class _Place:
    """One of the open streams, or Busy."""

    def __init__(self, counts: bool):
        self._counts = counts

    def __enter__(self) -> None:
        global _open_streams
        if self._counts and _open_streams >= MAX_STREAMS:
            raise Busy(f"{MAX_STREAMS} clients wait for events already", next="GET /api/events without wait_s")
        _open_streams += self._counts

    def __exit__(self, *_: object) -> None:
        global _open_streams
        _open_streams -= self._counts
        self._counts = False


def _events(caller: Caller, cursor: int, run: str | None, project: str | None, limit: int) -> list[dict[str, Any]]:
    run_id = runs.get_run(caller.store, run).id if run else None
    found = runs.events_since(caller.store, cursor, run_id=run_id, project=project, limit=limit)
    return [
        {
            "id": event.id,
            "run": event.run_id,
            "time": event.time,
            "actor": event.actor,
            "kind": event.kind,
            "old": event.old.value if event.old else None,
            "new": event.new.value if event.new else None,
            "reason": event.reason.value if event.reason else None,
            "detail": event.detail,
        }
        for event in found
    ]
