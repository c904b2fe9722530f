"""What runs left behind: metrics, logs, checkpoints; and what runs would cost elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import FileResponse, Response

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.server.answers import Answer
from patron_core.server.api.common import Asker, RunWord
from patron_core.verbs import checkpoints
from patron_core.verbs.metrics import MAX_POINTS, metrics

router = APIRouter(tags=["looking"])
MAX_RUNS = 50


@router.get("/metrics", summary="Points of several runs, thinned with their extremes")
def read_metrics(
    caller: Asker,
    runs: Annotated[str, Query(min_length=1, max_length=5000, description="ids or names, comma between")],
    keys: Annotated[str, Query(max_length=2000, description="such as train/loss,val/bpb; without it all")] = "",
    since_step: Annotated[int, Query(ge=-1, le=10**12)] = -1,
    around: Annotated[
        int | None, Query(ge=0, le=10**12, description="the points next to this step, all of them")
    ] = None,
    points: Annotated[int, Query(ge=4, le=MAX_POINTS, description="of each series, at most")] = 200,
) -> Answer:
    wanted = _words(runs)
    if not 1 <= len(wanted) <= MAX_RUNS:
        raise InvalidInput([f"runs: {len(wanted)}; allowed 1 to {MAX_RUNS}"], next="GET /api/runs")
    found = metrics(
        caller.store, wanted, keys=_words(keys) or None, since_step=since_step, around=around, points=points
    )
    return Answer({"runs": found})


@router.get("/compare", summary="Runs beside what was predicted of them")
def compare(caller: Asker, runs: Annotated[str, Query(min_length=1, max_length=5000)]) -> Answer:
    rows = verbs.compare(caller.store, [verbs.find_run(caller.store, word).id for word in _words(runs)[:MAX_RUNS]])
    return Answer({"runs": [row.to_dict() for row in rows]})


@router.get("/runs/{run}/log", summary="The last lines that it wrote")
def read_log(run: RunWord, caller: Asker, lines: Annotated[int, Query(ge=1, le=2000)] = 40) -> Answer:
    return Answer({"run": run, "lines": verbs.log_tail(caller.store, run, lines).splitlines()})


@router.get("/runs/{run}/checkpoints", summary="Its whole checkpoints, with their files and hashes")
def list_checkpoints(run: RunWord, caller: Asker) -> Answer:
    return Answer({"run": run, "checkpoints": checkpoints.every(caller.store, run)})


@router.get(
    "/runs/{run}/checkpoints/{step}/{file}", summary="One file of a checkpoint, also in ranges", response_model=None
)
def download(run: RunWord, step: int, file: str, caller: Asker) -> Response:
    return FileResponse(checkpoints.file(caller.store, run, step, file), media_type="application/octet-stream")


@router.get("/prices", summary="What GPUs cost at clouds")
def prices(
    caller: Asker,
    devices: Annotated[str, Query(max_length=500, description="comma between; without it all")] = "",
    dated: Annotated[bool, Query(description="the dated list prices, which need no cloud")] = False,
) -> Answer:
    wanted = _words(devices) or [name for name in verbs.device_names() if name != verbs.LOCAL_DEVICE]
    unknown = sorted(set(wanted) - set(verbs.device_names()))
    if unknown:
        raise InvalidInput([f"devices: no {', '.join(unknown)}"], next="GET /api/devices")
    market = verbs.prices(wanted, fallback=dated)
    left_out = [asdict(each) for each in market.left_out]
    offers = [price.to_dict() for price in market.by_region()]
    return Answer({"prices": offers, "left_out": left_out, "problems": market.problems, "source": market.source})


@router.get("/devices", summary="What a run can ask for")
def devices(caller: Asker) -> Answer:
    return Answer({"devices": verbs.device_names()})


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
