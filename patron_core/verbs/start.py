"""Start: authorise, fund and launch in one press. Pressed twice, or again after a crash, it holds and launches once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from patron_core.errors import Refused
from patron_core.estimate import Estimate
from patron_core.lifecycle import supervisor
from patron_core.states import RunState
from patron_core.store import Store, attempts, ledger, runs
from patron_core.store.records import Run, Wallet
from patron_core.verbs.control import launch
from patron_core.verbs.dryrun import repriced
from patron_core.verbs.fund import fund, hold_for
from patron_core.verbs.money import deposit
from patron_core.verbs.next_steps import next_step

_FUNDABLE = frozenset({RunState.AWAITING_FUNDING, RunState.PAUSED})


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What launching a run would hold, before anybody presses anything."""

    run: Run
    estimate: Estimate
    hold_usd_micros: int
    wallet: Wallet

    @property
    def short_usd_micros(self) -> int:
        """What the wallet lacks."""
        return max(0, self.hold_usd_micros - self.wallet.available_usd_micros)

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": self.run.id,
            "state": self.run.state.value,
            "hold_usd_micros": self.hold_usd_micros,
            "available_usd_micros": self.wallet.available_usd_micros,
            "short_usd_micros": self.short_usd_micros,
            "estimate": self.estimate.to_dict(),
        }


def offer(store: Store, run_id: str, *, usd_micros: int | None = None) -> Offer:
    """Raises Refused where the run has no dryrun, or is past the point where it could be launched."""
    run = runs.get_run(store, run_id)
    if run.state not in _FUNDABLE | {RunState.FUNDED}:
        raise Refused(f"run {run.id} is {run.state}; there is nothing to launch", next=next_step(run))
    row = repriced(store, run)
    hold = hold_for(run, row) if usd_micros is None else usd_micros
    if run.state is RunState.FUNDED:
        hold = 0  # it is held already
    return Offer(run=run, estimate=row, hold_usd_micros=hold, wallet=ledger.wallet(store, run.project))


def fund_and_launch(
    store: Store,
    run_id: str,
    *,
    usd_micros: int | None = None,
    deposit_usd_micros: int = 0,
    actor: str,
    key: str,
) -> Run:
    """Deposit what is given, hold the upper bound (or `usd_micros`), launch, and see that somebody supervises."""
    run = runs.get_run(store, run_id)
    if deposit_usd_micros:
        deposit(store, project=run.project, usd_micros=deposit_usd_micros, key=f"deposit:{key}", actor=actor)
    if run.state in _FUNDABLE:
        launches = sum(attempt.kind == "train" for attempt in attempts.for_run(store, run.id))
        run = fund(store, run.id, usd_micros=usd_micros, actor=actor, key=f"{key}:{launches}")
    run = launch(store, run.id, actor=actor)
    supervisor.ensure_running(store)
    return run
