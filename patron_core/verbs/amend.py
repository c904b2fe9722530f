"""Amend: change what a dryrun does not measure, between it and funding, without proving the run again.

A burst measures the model, the data and the machine (`TrainSpec.shape`). How long a run trains, by which rates and how
often it looks changes none of that, as long as the data lasts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from patron_core.errors import InvalidInput, Refused
from patron_core.lifecycle.workload import FOREIGN, check_spec, foreign_spec
from patron_core.states import RunState
from patron_core.store import Store, runs
from patron_core.store.records import Run
from patron_core.verbs.access import asks
from patron_core.verbs.dryrun import repriced_any
from patron_core.workloads.asking import checked
from trainer.contract.foreign import ForeignSpec
from trainer.contract.spec import FIELDS, UNMEASURED, TrainSpec, unknown_field


@asks("run")
def amend(store: Store, run_id: str, *, changes: Mapping[str, Any], actor: str, now: float | None = None) -> Run:
    """The run with other values of these fields, repriced. Raises InvalidInput for a field that a dryrun measures,
    Refused unless the run awaits funding and its data lasts."""
    now = time.time() if now is None else now
    run = runs.get_run(store, run_id)
    if run.workload != FOREIGN:
        _check_changes(changes)
    if run.state is not RunState.AWAITING_FUNDING or not run.dryrun:
        raise Refused(
            f"run {run.id} is {run.state}; its spec can change only between dryrun and funding",
            next="plan a new run",
        )
    code = foreign_spec(run)
    if code is not None:
        return _amend_code(store, run, code, changes, actor=actor, now=now)
    changed = with_proven_data(check_spec(run.spec), changes, run.dryrun["measured"])
    return _amended(store, run, changed, changes, actor=actor, now=now)


def _amend_code(
    store: Store, run: Run, spec: ForeignSpec, changes: Mapping[str, Any], *, actor: str, now: float
) -> Run:
    """Of foreign code the parameter that a burst shortens may change: how long it trains."""
    problems = [
        f"{name}: the dryrun measured it; without a new proof may change {spec.steps_parameter}"
        for name in changes
        if name != spec.steps_parameter
    ]
    if problems or not changes:
        raise InvalidInput(problems or ["nothing to change was given"], next="plan a new run with other values")
    given = {name: int(value) if str(value).isdigit() else value for name, value in changes.items()}
    changed = checked(spec.to_dict() | {"parameters": spec.parameters | given})
    return _amended(store, run, changed, changes, actor=actor, now=now)


def _amended(
    store: Store, run: Run, changed: TrainSpec | ForeignSpec, changes: Mapping[str, Any], *, actor: str, now: float
) -> Run:
    if changed.hash() == run.spec_hash:
        return run
    proof: dict[str, Any] = (run.dryrun or {}) | {"spec_hash": changed.hash()}
    with store.begin() as conn:
        runs.amend(conn, run.id, spec=changed.to_dict(), spec_hash=changed.hash(), dryrun=proof, now=now)
        runs.add_event(conn, run.id, kind="amended", actor=actor, now=now, detail=dict(changes))
    amended = runs.get_run(store, run.id)
    row = repriced_any(store, amended)
    with store.begin() as conn:
        return runs.set_fields(conn, run.id, now=now, estimate=(run.estimate or {}) | row.to_dict())


def with_proven_data(spec: TrainSpec, changes: Mapping[str, Any], measured: Mapping[str, Any]) -> TrainSpec:
    """The spec with these changes, on the very data that the dryrun `measured`. Raises Refused where it is too short.

    The batch, which a horizon would choose, stays as it was proven; the data is the same whatever the horizon.
    """
    kept: dict[str, Any] = {"batch_tokens": spec.recipe().batch_tokens}
    if "num_steps" not in changes and changes.keys() & {"ratio", "horizon_tokens"}:
        kept["num_steps"] = None
    changed = check_spec(spec.to_dict() | kept | dict(changes))
    available, needed = measured.get("train_tokens_available"), changed.recipe().train_tokens
    if available is not None and needed > available:
        raise Refused(
            f"{changed.recipe().num_steps} steps need {needed} tokens; the dryrun found {available}",
            next=f"take at most {available // changed.recipe().batch_tokens} steps, or more data",
        )
    return changed


def _check_changes(changes: Mapping[str, Any]) -> None:
    problems = [unknown_field(name, UNMEASURED) for name in changes if name not in FIELDS]
    problems += [
        f"{name}: the dryrun measured it; another value is another run. Without a new proof may change "
        f"{', '.join(sorted(UNMEASURED))}"
        for name in changes
        if name in FIELDS and name not in UNMEASURED
    ]
    if not changes:
        problems.append("nothing to change was given")
    if problems:
        raise InvalidInput(problems, next="plan a new run with other values")
