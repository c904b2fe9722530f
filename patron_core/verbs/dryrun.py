"""Dryrun: prove the plan with a short real burst on the real machine, in the configuration that will train."""

from __future__ import annotations

import time

from patron_core.errors import Refused
from patron_core.estimate import Calibration, Estimate, estimate
from patron_core.estimate.calibration import STARTUP_PHASES
from patron_core.machines.target import target_of
from patron_core.money import cost_usd_micros, format_usd
from patron_core.states import RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.store.records import Run
from patron_core.verbs.plan import fit_of
from patron_core.verbs.refusals import kept_with_the_run
from trainer.contract.grace import kill_after_s
from trainer.contract.spec import TrainSpec

BURST_STEPS = 8
MIN_DRYRUN_S = 180.0  # two process starts, and data prepared for the first time
WAITING = frozenset({RunState.DRAFT, RunState.AWAITING_FUNDING})


@kept_with_the_run
def dryrun(store: Store, run_id: str, *, actor: str, burst_steps: int = BURST_STEPS, now: float | None = None) -> Run:
    """Start the dryrun and return; `watch.wait` tells when it is over. A dryrun under way is returned as it is.

    Holds the burst's upper bound from the wallet, charges what it used and gives back the rest. Raises Refused when the
    wallet is short, or the run is past its dryrun.
    """
    now = time.time() if now is None else now
    run = runs.get_run(store, run_id)
    if run.state is RunState.DRYRUN:
        return run
    if run.state not in WAITING:
        raise Refused(
            f"run {run.id} is {run.state}; a dryrun comes before funding",
            next=f"python notebooks/4_watch.py --run {run.id}",
        )
    target = target_of(run)
    quote = target.quote(now=now)
    hourly = quote["usd_micros_per_hour"]
    hold = dryrun_hold_usd_micros(run, hourly, burst_steps)
    number = 1 + sum(a.kind == "dryrun" for a in attempts.for_run(store, run.id))
    with store.begin() as conn:
        ledger.hold(conn, run, hold, key=f"hold:{run.id}:dryrun:{number}", actor=actor, now=now)
        attempts.create(
            conn,
            run,
            kind="dryrun",
            usd_micros_per_hour=hourly,
            price=quote | {"burst_steps": burst_steps},
            now=now,
        )
        return runs.transition(
            conn,
            run.id,
            old=run.state,
            new=RunState.DRYRUN,
            actor=actor,
            now=now,
            detail=f"{burst_steps} steps, at most {format_usd(hold)}",
        )


def dryrun_hold_usd_micros(run: Run, usd_micros_per_hour: int, burst_steps: int = BURST_STEPS) -> int:
    """Upper bound of a burst: start-up twice, its steps several times over, an evaluation; room for a slow machine."""
    row = run.estimate or {}
    startup_s = sum(row.get("phases_s", {}).get(name, {}).get("high", 0.0) for name in STARTUP_PHASES)
    steps_s = 2 * burst_steps * row.get("step_s", {}).get("high", 0.0)
    bound_s = max(MIN_DRYRUN_S, 2 * startup_s + 2 * steps_s + row.get("eval_s", {}).get("high", 0.0))
    return cost_usd_micros(bound_s + kill_after_s(run.run_dir), usd_micros_per_hour)


def repriced(store: Store, run: Run) -> Estimate:
    """The run's estimate with what its dryrun measured. Raises Refused where there is no dryrun."""
    if not run.dryrun:
        raise Refused(f"run {run.id} has no dryrun", next=f"python notebooks/2_dryrun.py --run {run.id}")
    spec, target = TrainSpec.from_dict(run.spec), target_of(run)
    return estimate(
        spec,
        target.find_device(store),
        price=target.find_price(),
        budget_usd_micros=run.max_usd_micros,
        calibration=Calibration.from_dict(run.dryrun["calibration"]),
        fit=fit_of(store, spec.data),
        local=target.is_local,
        prepared=target.is_local,  # by the dryrun itself; a new machine has to do it again
    )
