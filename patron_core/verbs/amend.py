"""Amend: change how long a proven run trains and how often it is evaluated, without proving it again.

A burst measures the model, the data and the machine. None of those depends on the number of steps, as long as the data
lasts; so these two values, and no others, may change between dryrun and funding.
"""

from __future__ import annotations

import time
from typing import Any

from patron_core.errors import Refused
from patron_core.lifecycle.workload import check_spec
from patron_core.states import RunState
from patron_core.store import Store, runs
from patron_core.store.records import Run
from patron_core.verbs.access import asks
from patron_core.verbs.dryrun import repriced


@asks("run")
def amend(
    store: Store,
    run_id: str,
    *,
    num_steps: int,
    eval_every_steps: int,
    actor: str,
    now: float | None = None,
) -> Run:
    """The run with another horizon, repriced. Raises Refused unless it awaits funding and its data lasts."""
    now = time.time() if now is None else now
    run = runs.get_run(store, run_id)
    if run.state is not RunState.AWAITING_FUNDING or not run.dryrun:
        raise Refused(
            f"run {run.id} is {run.state}; its horizon can change only between dryrun and funding",
            next="plan a new run",
        )
    changed = check_spec(
        run.spec
        | {
            "batch_tokens": check_spec(run.spec).recipe().batch_tokens,  # else the new horizon would choose another
            "num_steps": num_steps,
            "eval_every_steps": eval_every_steps,
        }
    )
    available = run.dryrun["measured"].get("train_tokens_available")
    needed = changed.recipe().train_tokens
    if available is not None and needed > available:
        raise Refused(
            f"{num_steps} steps need {needed} tokens; the dryrun found {available}",
            next=f"take at most {available // changed.recipe().batch_tokens} steps, or more data",
        )
    proof: dict[str, Any] = run.dryrun | {"spec_hash": changed.hash()}
    with store.begin() as conn:
        runs.amend(conn, run.id, spec=changed.to_dict(), spec_hash=changed.hash(), dryrun=proof, now=now)
        runs.add_event(
            conn,
            run.id,
            kind="amended",
            actor=actor,
            now=now,
            detail={"num_steps": num_steps, "eval_every_steps": eval_every_steps},
        )
    amended = runs.get_run(store, run.id)
    row = repriced(store, amended)
    with store.begin() as conn:
        return runs.set_fields(conn, run.id, now=now, estimate=(run.estimate or {}) | row.to_dict())
