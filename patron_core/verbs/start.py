"""Start: authorise, fund and launch in one press. Pressed twice, or again after a crash, it holds and launches once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from patron_core.errors import Refused
from patron_core.estimate import Estimate
from patron_core.lifecycle import supervisor
from patron_core.states import RunState
from patron_core.store import Store, ledger, requests, runs
from patron_core.store.records import Run, Wallet
from patron_core.verbs.access import asks
from patron_core.verbs.control import launch
from patron_core.verbs.dryrun import repriced_any
from patron_core.verbs.fund import fund, hold_for, slower_than_said
from patron_core.verbs.here import check_here
from patron_core.verbs.money import deposit
from patron_core.verbs.next_steps import next_step
from patron_core.workloads.forecast import ForeignEstimate

_FUNDABLE = frozenset({RunState.AWAITING_FUNDING, RunState.PAUSED})
_OPEN = _FUNDABLE | {RunState.FUNDED}
_TOP_UP = frozenset({RunState.LAUNCHING, RunState.RUNNING, RunState.RECOVERING})


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What launching a run would hold, before anybody presses anything."""

    run: Run
    estimate: Estimate | ForeignEstimate
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


def offer(store: Store, run_id: str, *, usd_micros: int | None = None, key: str | None = None) -> Offer:
    """What `fund_and_launch` with the same arguments would hold; nothing where the run's money is held already.

    Raises Refused where the run has no dryrun, or is past the point where it could be launched: then it can only be
    topped up by an explicit amount. A launch that this key has done is offered again, for nothing.
    """
    run = runs.get_run(store, run_id)
    is_done = _is_done(store, run, key, usd_micros)
    if not is_done and run.state not in _OPEN and (run.state not in _TOP_UP or usd_micros is None):
        raise Refused(f"run {run.id} is {run.state}; there is nothing to launch", next=next_step(run))
    if not is_done and run.state in _OPEN:
        check_here(store, run)
    row = repriced_any(store, run)
    hold = 0 if is_done else usd_micros
    if hold is None:
        hold = hold_for(run, row, slower=slower_than_said(store, run, row)) if run.state in _FUNDABLE else 0
    return Offer(run=run, estimate=row, hold_usd_micros=hold, wallet=ledger.wallet(store, run.project))


@asks("spend")
def fund_and_launch(
    store: Store,
    run_id: str,
    *,
    usd_micros: int | None = None,
    deposit_usd_micros: int = 0,
    actor: str,
    key: str,
    on_progress: Callable[[str], object] = lambda line: None,
) -> Run:
    """Deposit what is given, hold the upper bound (or `usd_micros`), launch, and see that somebody supervises.

    A run whose money is held already, or that runs, is topped up by an explicit amount. The same key does it once;
    asked again it is answered with the run as it is by then, and with another amount it is a Conflict.
    `on_progress` is told what is done next: checking the environment takes seconds.
    """
    run = runs.get_run(store, run_id)
    if run.state in _OPEN:
        check_here(store, run)
    if deposit_usd_micros:
        paid = f"deposit:{run.id}:{key}"
        deposit(store, project=run.project, usd_micros=deposit_usd_micros, key=paid, actor=actor)
    if not _is_done(store, run, key, usd_micros):
        if run.state in _FUNDABLE or usd_micros is not None:
            fund(store, run.id, usd_micros=usd_micros, actor=actor, key=key, on_progress=on_progress)
        on_progress("Launching.")
        launch(store, run.id, actor=actor, key=key)
    supervisor.ensure_running(store)
    return runs.get_run(store, run.id)


def _is_done(store: Store, run: Run, key: str | None, usd_micros: int | None) -> bool:
    """Whether this key launched the run. Raises Conflict where it did so with another amount."""
    with store.read() as conn:
        if not requests.answered(conn, run.id, "launch", key, {}):
            return False
        requests.answered(conn, run.id, "fund", key, {"usd_micros": usd_micros})
        return True
