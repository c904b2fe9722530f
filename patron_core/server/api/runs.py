"""Runs: make one, find them, and take one through the loop."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from patron_core import verbs
from patron_core.server.answers import Answer
from patron_core.server.api.common import DEFAULT, Asker, Body, Fields, Key, Micros, RunWord, Word, cut
from patron_core.store import Run

router = APIRouter(tags=["runs"])


class Machines(Body):
    num_gpus: Annotated[int, Field(ge=1, le=verbs.MOST_GPUS, description="of each machine")] = 1
    num_nodes: Annotated[int, Field(ge=1, le=verbs.MOST_NODES, description="machines")] = 1


class Where(Machines):
    on: Word = Field(default="local", description="executor")
    device: Word = Field(default="local", description="local, or a GPU by its name")
    spot: bool = False

    def target(self) -> verbs.Target:
        return verbs.Target(
            executor=self.on, device=self.device, spot=self.spot, num_gpus=self.num_gpus, num_nodes=self.num_nodes
        )


class Code(Body):
    workload: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="GIT_URL@COMMIT; a folder for persons alone"
    )
    entry_point: Annotated[str, Field(max_length=200)] = ""
    parameters: dict[str, int | float | str] = Field(default_factory=dict, max_length=200)
    steps_parameter: Annotated[str, Field(max_length=100)] = Field(
        default="", description="the parameter that shortens it; else found by its name"
    )
    command: Annotated[str, Field(max_length=20_000)] = ""
    patch: Annotated[str, Field(max_length=1_000_000)] = ""

    def question(self) -> verbs.CodeQuestion:
        given = self.model_dump(exclude={"workload"})
        return verbs.CodeQuestion(where=self.workload, **given)


class NewRun(Where):
    spec: dict[str, Any] = Field(
        default_factory=dict,
        description="fields of a spec; depth is needed",
        examples=[{"depth": 2, "num_steps": 100}],
    )
    code: Code | None = Field(default=None, description="training code of others, in the place of a spec")
    project: Word = DEFAULT
    name: Word | None = None
    max_usd_micros: Micros | None = None
    budget_s: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    try_anyway: bool = Field(default=False, description="also where it may run out of memory: the dryrun tells")


class Estimate(Machines):
    depths: list[Annotated[int, Field(ge=1, le=64)]] = Field(min_length=1, max_length=64)
    devices: list[Word] = Field(default=["local"], min_length=1, max_length=20)
    spec: dict[str, Any] = Field(default_factory=dict)
    budget_s: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    budget_usd_micros: Micros | None = None
    spot: bool = False


class Burst(Body):
    burst_steps: Annotated[int, Field(ge=2, le=1000)] = 8


class Amendment(Body):
    changes: dict[str, Any] = Field(min_length=1, examples=[{"num_steps": 200}])


class Funding(Body):
    usd_micros: Micros | None = Field(default=None, description="default: the upper bound, as the dryrun repriced it")


def moved(run: Run) -> Answer:
    return Answer(verbs.run_summary(run) | {"next": verbs.next_step(run)})


@router.post("/estimate", summary="What depths take on devices; free")
def estimate(body: Estimate, caller: Asker, fields: Fields = "") -> Answer:
    rows = verbs.estimates(
        caller.store,
        depths=body.depths,
        devices=body.devices,
        spec={name: value for name, value in body.spec.items() if name != "depth"},
        budget_s=body.budget_s,
        budget_usd_micros=body.budget_usd_micros,
        spot=body.spot,
        world=verbs.WorldSize(per_node=body.num_gpus, nodes=body.num_nodes),
    )
    return Answer({"rows": [cut(row.to_dict(), fields) for row in rows]})


@router.post("/runs", summary="Plan a run: a draft, which costs nothing", status_code=201)
def plan(body: NewRun, caller: Asker, key: Key) -> Answer:
    target = body.target()
    target.check()
    rest: dict[str, Any] = {
        "project": body.project,
        "name": body.name,
        "target": target,
        "max_usd_micros": body.max_usd_micros,
        "budget_s": body.budget_s,
        "actor": caller.actor,
        "key": caller.key(key),
    }
    if body.code is not None:
        run = verbs.plan_code(caller.store, question=body.code.question(), **rest)
    else:
        spec = verbs.spec_on(target.find_device(caller.store), body.spec).to_dict()
        run = verbs.plan(caller.store, spec=spec, try_anyway=body.try_anyway, **rest)
    return Answer(verbs.run_summary(run) | {"estimate": run.estimate, "next": verbs.next_step(run)}, status_code=201)


@router.get("/runs", summary="Runs, newest first")
def list_runs(
    caller: Asker,
    project: Annotated[Word | None, Query()] = None,
    state: Annotated[list[verbs.RunState] | None, Query()] = None,
    tag: Annotated[list[Word] | None, Query(max_length=20, description="runs that have all of these")] = None,
    text: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[int, Query(ge=0, le=1_000_000, description="`cursor` of the page before")] = 0,
) -> Answer:
    page = verbs.list_runs(caller.store, project=project, states=state, tags=tag, text=text, limit=limit, cursor=cursor)
    return Answer(page.to_dict())


@router.get("/runs/{run}", summary="A run with its money, attempts and newest metrics")
def show_run(run: RunWord, caller: Asker, fields: Fields = "") -> Answer:
    seen = verbs.view(caller.store, run)
    return Answer(cut(seen.to_dict() | {"spec": seen.run.spec, "estimate": seen.run.estimate}, fields))


@router.get("/runs/{run}/offer", summary="What launching would hold; holds nothing")
def offer(run: RunWord, caller: Asker, fields: Fields = "") -> Answer:
    return Answer(cut(verbs.offer(caller.store, run).to_dict(), fields))


@router.post("/runs/{run}/dryrun", summary="Prove the plan with a short burst; costs a little")
def dryrun(run: RunWord, body: Burst, caller: Asker, key: Key) -> Answer:
    begun = verbs.dryrun(caller.store, run, actor=caller.actor, key=caller.key(key), burst_steps=body.burst_steps)
    verbs.ensure_running(caller.store)
    return moved(begun)


@router.post("/runs/{run}/amend", summary="Change what no dryrun measures, before funding")
def amend(run: RunWord, body: Amendment, caller: Asker) -> Answer:
    return moved(verbs.amend(caller.store, run, changes=body.changes, actor=caller.actor))


@router.post("/runs/{run}/fundings", summary="Hold money for it; tops a running run up")
def fund(run: RunWord, body: Funding, caller: Asker, key: Key) -> Answer:
    return moved(verbs.fund(caller.store, run, usd_micros=body.usd_micros, actor=caller.actor, key=caller.key(key)))


@router.post("/runs/{run}/launch", summary="Start what is funded, once; resumes what was paused and funded again")
def launch(run: RunWord, caller: Asker, key: Key) -> Answer:
    launched = verbs.launch(caller.store, run, actor=caller.actor, key=caller.key(key))
    verbs.ensure_running(caller.store)
    return moved(launched)


@router.post("/runs/{run}/resume", summary="Fund what is left of a paused run, and launch it")
def resume(run: RunWord, body: Funding, caller: Asker, key: Key) -> Answer:
    return moved(
        verbs.fund_and_launch(caller.store, run, usd_micros=body.usd_micros, actor=caller.actor, key=caller.key(key))
    )


@router.post("/runs/{run}/pause", summary="Save a checkpoint and stop; what is left of the hold is free")
def pause(run: RunWord, caller: Asker) -> Answer:
    return moved(verbs.pause(caller.store, run, actor=caller.actor))


@router.post("/runs/{run}/cancel", summary="End it for good")
def cancel(run: RunWord, caller: Asker) -> Answer:
    return moved(verbs.cancel(caller.store, run, actor=caller.actor))


@router.post("/stop", summary="The kill switch: pause what runs, cancel dryruns")
def stop(
    caller: Asker, project: Annotated[Word | None, Query()] = None, token: Annotated[Word | None, Query()] = None
) -> Answer:
    return Answer(verbs.stop_all(caller.store, token=token, project=project, actor=caller.actor))
