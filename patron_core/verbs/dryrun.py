"""Dryrun: prove the plan with a short real burst on the real machine, in the configuration that will train."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from patron_core.errors import Refused
from patron_core.estimate import Estimate, estimate
from patron_core.interval import Interval, total
from patron_core.lifecycle import holds
from patron_core.lifecycle.workload import foreign_spec
from patron_core.machines.target import target_of
from patron_core.money import format_usd
from patron_core.states import EndReason, RunState
from patron_core.store import Store, attempts, ledger, requests, runs
from patron_core.store.records import Attempt, Run
from patron_core.verbs import free_checks, moving
from patron_core.verbs.access import asks
from patron_core.verbs.foreign import foreign_repriced
from patron_core.verbs.here import check_here
from patron_core.verbs.measured import fit_of, proven_calibration
from patron_core.verbs.refusals import kept_with_the_run
from patron_core.workloads.forecast import ForeignEstimate
from trainer.contract.spec import TrainSpec

BURST_STEPS = 8
WAITING = frozenset({RunState.DRAFT, RunState.AWAITING_FUNDING})


@asks("spend")
@kept_with_the_run
def dryrun(
    store: Store,
    run_id: str,
    *,
    actor: str,
    key: str | None = None,
    burst_steps: int = BURST_STEPS,
    on_progress: Callable[[str], object] = lambda line: None,
    now: float | None = None,
) -> Run:
    """Start the dryrun and return; `watch.wait` tells when it is over. A dryrun under way is returned as it is.

    Holds the burst's upper bound from the wallet, charges what it used and gives back the rest. The same key starts
    one. Raises Refused when the wallet is short, the run may not cost as much, or it is past its dryrun.
    """
    now = time.time() if now is None else now
    asked = {"burst_steps": burst_steps}
    with store.read() as conn:
        run = runs.get_run(conn, run_id)
        if _is_begun(conn, run, key, asked):
            return run
    _check_waiting(run)
    check_here(store, run)
    on_progress("Checking data, place and price.")
    free_checks.before_dryrun(run)
    quote = dryrun_quote(run, now=now)
    on_progress("Holding what the burst may cost.")
    with store.begin() as conn:
        run = runs.lock(conn, run.id)
        if _is_begun(conn, run, key, asked):
            return run
        _check_waiting(run)
        hold = hold_for_dryrun(conn, run, quote, burst_steps)
        price, hourly = quote | {"burst_steps": burst_steps}, quote["usd_micros_per_hour"]
        attempt = attempts.create(conn, run, kind="dryrun", usd_micros_per_hour=hourly, price=price, now=now)
        ledger.hold(conn, run, hold, key=f"hold:{run.id}:dryrun:{attempt.number}", actor=actor, now=now)
        requests.write(conn, run.id, "dryrun", key, asked, actor=actor, now=now)
        return runs.transition(
            conn,
            run.id,
            old=run.state,
            new=RunState.DRYRUN,
            actor=actor,
            now=now,
            detail=f"{burst_steps} steps, at most {format_usd(hold)}",
        )


def _is_begun(conn: Connection, run: Run, key: str | None, asked: dict[str, int]) -> bool:
    return requests.answered(conn, run.id, "dryrun", key, asked) or run.state is RunState.DRYRUN


def dryrun_quote(run: Run, *, now: float | None = None) -> dict[str, Any]:
    """What an hour of its machine costs now, and what its burst will move."""
    target = target_of(run)
    return moving.with_transfer(target.quote(now=now), run, target, is_dryrun=True)


def hold_for_dryrun(store: Store | Connection, run: Run, quote: dict[str, Any], burst_steps: int = BURST_STEPS) -> int:
    """The upper bound of a burst at this quote; after one whose hold ran out, twice what that one had."""
    hourly, stop_s = quote["usd_micros_per_hour"], holds.stop_s(run.run_dir, is_rented=bool(quote["machine"]))
    ran_out_s = max((a.charged_s for a in ran_out(store, run.id)), default=0.0)
    hold = holds.for_dryrun(run.estimate, hourly, burst_steps, stop_s=stop_s, ran_out_s=ran_out_s)
    return hold + moving.hold_usd_micros(quote, holds.MIN_DRYRUN_S)


def ran_out(store: Store | Connection, run_id: str) -> list[Attempt]:
    """The dryruns of a run that took longer than was held for."""
    made = attempts.for_run(store, run_id)
    return [a for a in made if a.kind == "dryrun" and a.reason is EndReason.OUT_OF_FUNDS]


def _check_waiting(run: Run) -> None:
    if run.state not in WAITING:
        raise Refused(
            f"run {run.id} is {run.state}; a dryrun comes before funding",
            next=f"patron watch --run {run.id}",
        )


def startup_s(estimated: Mapping[str, Any]) -> Interval:
    """Seconds from launch to the first step, of an estimate as it is kept."""
    phases = estimated.get("phases_s", {})
    return total(Interval(**phases[name]) for name in holds.startup_phases(estimated))


def repriced_any(store: Store, run: Run) -> Estimate | ForeignEstimate:
    """Of the built-in trainer or of foreign code. Raises Refused where there is no dryrun."""
    code = foreign_spec(run)
    return repriced(store, run) if code is None else foreign_repriced(store, run, code)


def repriced(store: Store, run: Run) -> Estimate:
    """The run's estimate with what its dryrun measured. Raises Refused where there is no dryrun."""
    if not run.dryrun:
        raise Refused(f"run {run.id} has no dryrun", next=f"patron dryrun --run {run.id} --yes")
    spec, target = TrainSpec.from_dict(run.spec), target_of(run)
    return estimate(
        spec,
        target.find_device(store),
        price=target.find_price(),
        budget_usd_micros=run.max_usd_micros,
        calibration=proven_calibration(store, run),
        fit=fit_of(store, spec.data),
        local=target.is_local,
        egress_usd_micros_per_gb=moving.egress_usd_micros_per_gb(target, run.run_dir),
        world=target.world,
        prepared=target.is_local,  # by the dryrun itself; a new machine has to do it again
    )
