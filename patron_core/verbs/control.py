"""Launch, pause and cancel: what a person may ask of a run. Each is safe to repeat; the supervisor does the work.

What decides is looked at under the run's lock: of a cancel and a launch at once, the later one sees what the first did.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from patron_core.errors import Refused
from patron_core.lifecycle import holds
from patron_core.lifecycle.apply import settle
from patron_core.lifecycle.deadline import with_finish
from patron_core.machines.target import target_of
from patron_core.money import format_usd, typed_usd
from patron_core.states import TERMINAL, EndReason, RunState
from patron_core.store import Store, attempts, ledger, requests, runs
from patron_core.store.records import Run
from patron_core.verbs import free_checks, moving
from patron_core.verbs.access import asks
from patron_core.verbs.here import check_here
from patron_core.verbs.next_steps import next_step
from patron_core.verbs.refusals import kept_with_the_run

_LAUNCHED = frozenset({RunState.LAUNCHING, RunState.RUNNING, RunState.RECOVERING})
_WITH_ATTEMPT = _LAUNCHED | {RunState.DRYRUN}  # an attempt may be alive, so the supervisor has to end it


@asks("run")
@kept_with_the_run
def launch(store: Store, run_id: str, *, actor: str, key: str | None = None, now: float | None = None) -> Run:
    """Start a funded run, exactly once: the intent and the state change are one transaction.

    A run that is launching, running or done already is returned as it is, and so is one that this key launched. It
    pays what an hour costs now, for as long as its hold lasts. Raises Refused before it is funded, where its hold does
    not pay for one start, and where no price is known.
    """
    now = time.time() if now is None else now
    with store.read() as conn:
        run = runs.get_run(conn, run_id)
        if _is_launched(conn, run, key):
            return run
    _check_funded(run)
    check_here(store, run)
    free_checks.before_launch(run)
    quote = _quote(run, now=now)
    hourly = quote["usd_micros_per_hour"]
    with store.begin() as conn:
        run = runs.lock(conn, run.id)
        if _is_launched(conn, run, key):
            return run
        _check_funded(run)
        _check_one_start(conn, run, hourly, is_rented=bool(quote["machine"]))
        if run.stop_requested == "pause":  # an older wish than this one
            runs.set_fields(conn, run.id, now=now, stop_requested=None)
        attempts.create(conn, run, kind="train", usd_micros_per_hour=hourly, price=quote, now=now)
        requests.write(conn, run.id, "launch", key, {}, actor=actor, now=now)
        return runs.transition(
            conn, run.id, old=RunState.FUNDED, new=RunState.LAUNCHING, actor=actor, now=now, detail="launch"
        )


def _quote(run: Run, *, now: float) -> dict[str, Any]:
    """What an hour costs now; with a time to be done by, and spot allowed, also what it costs on demand."""
    target, estimate = target_of(run), run.estimate or {}
    quote = moving.with_transfer(target.quote(now=now), run, target)
    if not target.spot or not estimate.get("finish_s"):
        return quote
    on_demand_target = replace(target, spot=False)
    on_demand = moving.with_transfer(on_demand_target.quote(now=now), run, on_demand_target)
    stop_s = holds.stop_s(run.run_dir, is_rented=True)
    return with_finish(quote, on_demand, estimate=estimate, stop_s=stop_s, now=now)


def _is_launched(conn: Connection, run: Run, key: str | None) -> bool:
    return requests.answered(conn, run.id, "launch", key, {}) or run.state in _LAUNCHED | {RunState.SUCCEEDED}


def _check_funded(run: Run) -> None:
    if run.state is not RunState.FUNDED:
        raise Refused(f"run {run.id} is {run.state}, not funded", next=next_step(run))


def _check_one_start(conn: Connection, run: Run, usd_micros_per_hour: int, *, is_rented: bool) -> None:
    held = ledger.run_money(conn, run.id).held_usd_micros
    stop_s = holds.stop_s(run.run_dir, is_rented=is_rented)
    needed = holds.for_one_start(run.estimate, usd_micros_per_hour, stop_s=stop_s)
    if held < needed:
        raise Refused(
            f"{format_usd(held)} are held for run {run.id}; one start and the checkpoint at its end need "
            f"{format_usd(needed)} at {format_usd(usd_micros_per_hour)} an hour",
            next=f"patron launch --run {run.id} --fund {typed_usd(needed - held)} --yes",
        )


@asks("run")
def cancel(store: Store, run_id: str, *, actor: str, now: float | None = None) -> Run:
    """End a run for good. What it holds goes back to the wallet; what it used stays charged. Safe to repeat."""
    now = time.time() if now is None else now
    named = runs.get_run(store, run_id)
    with store.begin(any_version=True) as conn:
        run = runs.lock(conn, named.id)
        if run.state in TERMINAL or run.stop_requested == "cancel":
            return run
        if run.state in _WITH_ATTEMPT:
            return _ask_to_stop(conn, run, wish="cancel", actor=actor, now=now)
        stopped = runs.transition(
            conn, run.id, old=run.state, new=RunState.CANCELLED, reason=EndReason.CANCELLED, actor=actor, now=now
        )
        settle(conn, run, now=now)
        return stopped


@asks("run")
def pause(store: Store, run_id: str, *, actor: str, now: float | None = None) -> Run:
    """Save a checkpoint and stop; the rest of the hold goes back. Funding it again resumes it.

    Raises Refused for a run that has not been launched or is over, and for one that is being cancelled.
    """
    now = time.time() if now is None else now
    named = runs.get_run(store, run_id)
    with store.begin(any_version=True) as conn:
        run = runs.lock(conn, named.id)
        if run.state is RunState.PAUSED or run.stop_requested == "pause":
            return run
        if run.state not in _LAUNCHED:
            raise Refused(f"run {run.id} is {run.state}; only a launched run can be paused", next=next_step(run))
        if run.stop_requested is not None:
            raise Refused(f"run {run.id} is being cancelled, which a pause does not undo", next=next_step(run))
        return _ask_to_stop(conn, run, wish="pause", actor=actor, now=now)


def _ask_to_stop(conn: Connection, run: Run, *, wish: str, actor: str, now: float) -> Run:
    runs.add_event(conn, run.id, kind="stop_requested", actor=actor, now=now, detail={"wish": wish})
    return runs.set_fields(conn, run.id, now=now, stop_requested=wish)
