"""Adopt: a draft is proven by the dryrun of another run of its shape; a rate or a seed changes nothing it measured."""

from __future__ import annotations

import time

from patron_core.errors import Refused
from patron_core.lifecycle.workload import check_spec
from patron_core.machines.target import target_of
from patron_core.states import RunState
from patron_core.store import Store, runs
from patron_core.store.records import Run
from patron_core.verbs.access import asks
from patron_core.verbs.amend import with_proven_data
from patron_core.verbs.dryrun import repriced
from patron_core.verbs.fund import proof_folder


@asks("run")
def adopt(store: Store, run_id: str, proven_id: str, *, actor: str, now: float | None = None) -> Run:
    """The draft, awaiting funding with the proof of the other run. One that is past it is returned as it is.

    Raises Refused for another shape or another target, where the other run has no proof, and where its data is too
    short for this one.
    """
    now = time.time() if now is None else now
    run, proven = runs.get_run(store, run_id), runs.get_run(store, proven_id)
    if run.state is not RunState.DRAFT:
        return run
    if not proven.dryrun:
        raise Refused(f"run {proven.id} has no dryrun to share", next=f"patron dryrun --run {proven.id} --yes")
    _check_same_shape(run, proven)
    spec = with_proven_data(check_spec(run.spec), {}, proven.dryrun["measured"])
    proof = proven.dryrun | {
        "spec_hash": spec.hash(),
        "folder": proof_folder(proven),
        "proven_by": proven.dryrun.get("proven_by", proven.id),
    }
    with store.begin() as conn:
        locked = runs.lock(conn, run.id)
        if locked.state is not RunState.DRAFT:
            return locked
        runs.transition(
            conn,
            run.id,
            old=RunState.DRAFT,
            new=RunState.AWAITING_FUNDING,
            actor=actor,
            now=now,
            detail=f"proven by the dryrun of run {proof['proven_by']}, which has its shape",
        )
        runs.amend(conn, run.id, spec=spec.to_dict(), spec_hash=spec.hash(), dryrun=proof, now=now)
    adopted = runs.get_run(store, run.id)
    row = repriced(store, adopted)
    with store.begin() as conn:
        return runs.set_fields(conn, run.id, now=now, estimate=(run.estimate or {}) | row.to_dict())


def _check_same_shape(run: Run, proven: Run) -> None:
    mine, other = check_spec(run.spec).shape(), check_spec(proven.spec).shape()
    differs = [name for name in sorted({*mine, *other} - {"data_shards"}) if mine.get(name) != other.get(name)]
    if mine.get("data_shards") not in (None, other.get("data_shards")):
        differs.append("data_shards")
    if target_of(run) != target_of(proven):
        differs.append("where it runs")
    if differs:
        raise Refused(
            f"the dryrun of run {proven.id} proves nothing of run {run.id}: {', '.join(differs)} differ",
            next=f"patron dryrun --run {run.id} --yes",
        )
