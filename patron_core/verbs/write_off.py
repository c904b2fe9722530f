"""Write off: end a local run whose machine is not heard of any more, so that its money is free again."""

from __future__ import annotations

import time

from sqlalchemy import Connection

from patron_core import settings
from patron_core.errors import Refused
from patron_core.lifecycle import ownership
from patron_core.lifecycle.apply import settle
from patron_core.states import TERMINAL, EndReason, RunState
from patron_core.store import Store, attempts, hosts, runs
from patron_core.store.records import Host, Run
from patron_core.verbs.access import asks
from patron_core.verbs.refusals import kept_with_the_run


@asks("run")
@kept_with_the_run
def write_off(store: Store, run_id: str, *, actor: str, now: float | None = None) -> Run:
    """The run as it failed. What was metered stays charged, the rest of its hold goes back. Safe to repeat.

    When its machine comes back, that stops what still runs there and charges nothing more. Raises Refused for a run
    that its machine can still be asked to cancel, and for who neither planned it, nor is that machine's user, nor an
    admin: has a token with that scope, or is named in PATRON_ADMINS. That is a fence against mistakes, since who can
    write to the database can do anything.
    """
    now = time.time() if now is None else now
    named = runs.get_run(store, run_id)
    with store.begin() as conn:
        run = runs.lock(conn, named.id)
        if run.reason is EndReason.WRITTEN_OFF:
            return run
        host = hosts.get(conn, run.host_id)
        _check_unheard(run, host)
        if store.token is None or not store.token.may("admin"):
            _check_actor(run, host, actor)
        _end_attempts(conn, run, actor=actor, host=host, now=now)
        detail = f"{host.name if host else 'its machine'} was not heard of any more"
        written_off = runs.transition(
            conn,
            run.id,
            old=run.state,
            new=RunState.FAILED,
            reason=EndReason.WRITTEN_OFF,
            actor=actor,
            now=now,
            detail=detail,
        )
        settle(conn, run, now=now)
        return written_off


def _check_unheard(run: Run, host: Host | None) -> None:
    if run.state in TERMINAL:
        raise Refused(f"run {run.id} has {run.state} already", next=f"patron watch --run {run.id}")
    cancel = f"patron watch --run {run.id} --cancel --yes"
    if not ownership.is_elsewhere(run):
        raise Refused(f"run {run.id} is this machine's, or the lab's: it can be cancelled", next=cancel)
    if host is not None and host.silent_s <= ownership.UNHEARD_S:
        raise Refused(f"run {run.id} {ownership.words(host)}, which will hear of a cancel", next=cancel)


def _check_actor(run: Run, host: Host | None, actor: str) -> None:
    owners = dict.fromkeys([run.actor, *([host.user] if host else [])])
    if actor not in {*owners, *settings.admins()}:
        raise Refused(
            f"run {run.id} can be written off by {' or '.join(owners)}, or who PATRON_ADMINS names; not by {actor}",
            next=f"patron watch --run {run.id}",
        )


def _end_attempts(conn: Connection, run: Run, *, actor: str, host: Host | None, now: float) -> None:
    evidence = {"written_off_by": actor, "unheard_s": round(host.silent_s) if host else None}
    for attempt in attempts.for_run(conn, run.id):
        attempts.ended(
            conn,
            attempt.id,
            reason=EndReason.WRITTEN_OFF,
            exit_code=None,
            evidence=attempt.evidence | evidence,
            now=now,
        )
