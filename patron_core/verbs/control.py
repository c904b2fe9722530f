"""Launch, pause and cancel: what a person may ask of a run. Each is safe to repeat; the supervisor does the work."""

from __future__ import annotations

import time

from patron_core.errors import Refused
from patron_core.lifecycle.apply import settle
from patron_core.machines.target import target_of
from patron_core.states import TERMINAL, EndReason, RunState
from patron_core.store import Store, attempts, runs
from patron_core.store.records import Run
from patron_core.verbs.next_steps import next_step
from patron_core.verbs.refusals import kept_with_the_run

# an attempt may be alive in these, so the supervisor has to end it
_WITH_ATTEMPT = frozenset({RunState.DRYRUN, RunState.LAUNCHING, RunState.RUNNING, RunState.RECOVERING})


@kept_with_the_run
def launch(store: Store, run_id: str, *, actor: str, now: float | None = None) -> Run:
    """Start a funded run, exactly once: the intent and the state change are one transaction.

    A run that is launching, running or done already is returned as it is. It pays what an hour costs now, for as long
    as its hold lasts. Raises Refused before it is funded, and where no price is known.
    """
    now = time.time() if now is None else now
    run = runs.get_run(store, run_id)
    if run.state in _WITH_ATTEMPT - {RunState.DRYRUN} or run.state is RunState.SUCCEEDED:
        return run
    if run.state is not RunState.FUNDED:
        raise Refused(f"run {run.id} is {run.state}, not funded", next=next_step(run))
    quote = target_of(run).quote(now=now)
    hourly = quote["usd_micros_per_hour"]
    with store.begin() as conn:
        attempts.create(conn, run, kind="train", usd_micros_per_hour=hourly, price=quote, now=now)
        return runs.transition(
            conn, run.id, old=RunState.FUNDED, new=RunState.LAUNCHING, actor=actor, now=now, detail="launch"
        )


def cancel(store: Store, run_id: str, *, actor: str, now: float | None = None) -> Run:
    """End a run for good. What it holds goes back to the wallet; what it used stays charged. Safe to repeat."""
    return _stop(store, run_id, wish="cancel", reason=EndReason.CANCELLED, actor=actor, now=now)


def pause(store: Store, run_id: str, *, actor: str, now: float | None = None) -> Run:
    """Save a checkpoint and stop; the rest of the hold goes back. Funding it again resumes it."""
    run = runs.get_run(store, run_id)
    if run.state is RunState.PAUSED or run.stop_requested == "pause":
        return run
    if run.state not in _WITH_ATTEMPT - {RunState.DRYRUN}:
        raise Refused(f"run {run.id} is {run.state}; only a launched run can be paused", next=next_step(run))
    return _stop(store, run_id, wish="pause", reason=EndReason.PAUSED, actor=actor, now=now)


def _stop(store: Store, run_id: str, *, wish: str, reason: EndReason, actor: str, now: float | None) -> Run:
    now = time.time() if now is None else now
    run = runs.get_run(store, run_id)
    if run.state in TERMINAL:
        return run
    with store.begin() as conn:
        if run.state in _WITH_ATTEMPT:
            runs.set_fields(conn, run.id, now=now, stop_requested=wish)
            runs.add_event(conn, run.id, kind="stop_requested", actor=actor, now=now, detail={"wish": wish})
            return runs.get_run(conn, run.id)
        stopped = runs.transition(
            conn, run.id, old=run.state, new=RunState.CANCELLED, reason=reason, actor=actor, now=now
        )
        settle(conn, run, now=now)
        return stopped
