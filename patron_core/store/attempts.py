"""Attempts: each launch of a run. The intent is written first, then what the executor answered, then how it ended."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from patron_core.errors import Conflict, NotFound
from patron_core.states import EndReason
from patron_core.store import allowances, runs
from patron_core.store.engine import Store, insert_new, reading
from patron_core.store.records import Attempt, AttemptKind, Run, RunSummary
from patron_core.store.schema import attempts
from patron_core.store.schema import runs as runs_table
from trainer.contract.keys import attempt_key


def create(
    conn: Connection,
    run: RunSummary,
    *,
    kind: AttemptKind,
    usd_micros_per_hour: int,
    price: dict[str, Any],
    now: float,
) -> Attempt:
    """Write down the intent to launch. Raises Conflict while another attempt of the run has not ended."""
    allowances.check_machine(conn, runs.lock(conn, run.id), usd_micros_per_hour)
    same_kind = (attempts.c.run_id == run.id) & (attempts.c.kind == kind)
    number = 1 + (conn.execute(sa.select(sa.func.max(attempts.c.number)).where(same_kind)).scalar() or 0)
    alive = (attempts.c.run_id == run.id) & (attempts.c.state != "ended")
    other = conn.execute(sa.select(attempts.c.id, attempts.c.state).where(alive)).first()
    if other is not None:
        raise Conflict(
            f"attempt {other.id} of run {run.id} has not ended ({other.state}); a second one would run beside it",
            next="wait for it to end, or cancel the run",
        )
    attempt_id = attempt_key(run.id, kind, number)
    values = {
        "id": attempt_id,
        "run_id": run.id,
        "number": number,
        "kind": kind,
        "executor": run.executor,
        "state": "intent",
        "usd_micros_per_hour": usd_micros_per_hour,
        "price": price,
        "control_key": secrets.token_hex(16),
        "charged_s": 0.0,
        "charged_usd_micros": 0,
        "evidence": {},
        "created_at": now,
    }
    insert_new(conn, attempts, values, unique=["id"])
    return get(conn, attempt_id)


def submitted(
    conn: Connection, attempt_id: str, *, handle: dict[str, Any], now: float, deadline_s: float | None = None
) -> Attempt:
    """The executor has it. Where the attempt has ended meanwhile the handle is kept all the same, for a cancel."""
    state = sa.case((attempts.c.state == "intent", "submitted"), else_=attempts.c.state)
    started_at = sa.func.coalesce(attempts.c.started_at, now)
    deadline = attempts.c.deadline_s if deadline_s is None else deadline_s
    return _change(conn, attempt_id, handle=handle, state=state, started_at=started_at, deadline_s=deadline)


def moved_deadline(conn: Connection, attempt_id: str, *, deadline_s: float) -> Attempt:
    """A top-up lets it run until then."""
    return _change(conn, attempt_id, deadline_s=deadline_s)


def started(conn: Connection, attempt_id: str, *, at: float) -> Attempt:
    """When the machine really started, where the executor knows better than the time of `submitted`."""
    return _change(conn, attempt_id, started_at=at)


def stop_asked(conn: Connection, attempt_id: str, *, cause: str, now: float) -> Attempt:
    """Patron asked it to save and stop. The first cause stays: a second one does not restart the grace period."""
    first = sa.func.coalesce(attempts.c.stop_cause, cause), sa.func.coalesce(attempts.c.stop_asked_at, now)
    return _change(conn, attempt_id, stop_cause=first[0], stop_asked_at=first[1])


def meter(conn: Connection, attempt_id: str, *, charged_s: float, charged_usd_micros: int) -> Attempt:
    """Totals so far, not additions: saying the same twice changes nothing, and they never go down."""
    seconds = sa.case((attempts.c.charged_s < charged_s, charged_s), else_=attempts.c.charged_s)
    charged = attempts.c.charged_usd_micros
    micros = sa.case((charged < charged_usd_micros, charged_usd_micros), else_=charged)
    return _change(conn, attempt_id, charged_s=seconds, charged_usd_micros=micros)


def ended(
    conn: Connection,
    attempt_id: str,
    *,
    reason: EndReason,
    exit_code: int | None,
    evidence: dict[str, Any],
    now: float,
) -> Attempt:
    """How it ended. The first word stays: a second call changes nothing and returns what was written."""
    values = {"state": "ended", "reason": reason.value, "exit_code": exit_code, "evidence": evidence, "ended_at": now}
    conn.execute(sa.update(attempts).where(attempts.c.id == attempt_id, attempts.c.state != "ended").values(**values))
    return get(conn, attempt_id)


def check_newest(conn: Connection, run: Run, attempt: Attempt | None) -> None:
    """Raises StaleState unless `run` is still in its state, and `attempt` its newest one and in its own.

    Locks the run: until the transaction ends both stay so. Whoever judged by what was seen is told when it is over:
    a run may be in the same state again, with another attempt that nobody has judged.
    """
    runs.lock(conn, run.id)
    now, made = runs.get_run(conn, run.id), for_run(conn, run.id)
    newest = (made[-1].id, made[-1].state) if made else None
    judged = (attempt.id, attempt.state) if attempt else None
    if now.state is not run.state or newest != judged:
        raise runs.StaleState(
            f"run {run.id} is {now.state} with {_words(newest)}; what was judged is {run.state} with {_words(judged)}",
            next="look at the run again and decide anew",
            actual=now.state,
        )


def _words(attempt: tuple[str, str] | None) -> str:
    return f"{attempt[0]} {attempt[1]}" if attempt else "no attempt"


def get(store: Store | Connection, attempt_id: str) -> Attempt:
    with reading(store) as conn:
        row = conn.execute(sa.select(attempts).where(attempts.c.id == attempt_id)).first()
    if row is None:
        raise NotFound(f"there is no attempt {attempt_id!r}", next="look at the run's attempts")
    return _attempt(row)


def for_run(store: Store | Connection, run_id: str) -> list[Attempt]:
    """Oldest first: dryruns come before training. By number, since a clock that jumps back would reorder times."""
    query = sa.select(attempts).where(attempts.c.run_id == run_id)
    query = query.order_by(attempts.c.kind, attempts.c.number)
    with reading(store) as conn:
        return [_attempt(row) for row in conn.execute(query)]


def for_runs(store: Store | Connection, run_ids: Iterable[str]) -> dict[str, list[Attempt]]:
    """By run, as `for_run` gives them, in one query."""
    found: dict[str, list[Attempt]] = {run_id: [] for run_id in run_ids}
    query = sa.select(attempts).where(attempts.c.run_id.in_(list(found)))
    with reading(store) as conn:
        for row in conn.execute(query.order_by(attempts.c.kind, attempts.c.number)):
            found[row.run_id].append(_attempt(row))
    return found


def zone_of(attempt: Attempt) -> str:
    """Where its machine was rented, as SkyPilot writes it: gcp/us-central1/us-central1-a; empty where nobody said."""
    return "/".join(str(attempt.evidence[part]) for part in ("cloud", "region", "zone") if attempt.evidence.get(part))


def live(store: Store | Connection) -> list[Attempt]:
    """Every attempt that has not ended, oldest first."""
    query = sa.select(attempts).where(attempts.c.state != "ended").order_by(attempts.c.created_at, attempts.c.id)
    with reading(store) as conn:
        return [_attempt(row) for row in conn.execute(query)]


def to_be_stopped(store: Store | Connection, host_id: str) -> list[Attempt]:
    """Those that were written off while that machine was away, and that it has not stopped yet."""
    query = sa.select(attempts).join(runs_table, runs_table.c.id == attempts.c.run_id)
    left = (attempts.c.reason == EndReason.WRITTEN_OFF.value) & attempts.c.stop_cause.is_(None)
    with reading(store) as conn:
        return [_attempt(row) for row in conn.execute(query.where(left, runs_table.c.host_id == host_id))]


def _change(conn: Connection, attempt_id: str, **values: Any) -> Attempt:
    conn.execute(sa.update(attempts).where(attempts.c.id == attempt_id).values(**values))
    return get(conn, attempt_id)


def _attempt(row: Row[Any]) -> Attempt:
    return Attempt(**{**row._mapping, "reason": EndReason(row.reason) if row.reason else None})


def train_totals(conn: Connection, run_ids: Sequence[str]) -> dict[str, tuple[float, int]]:
    """(machine seconds, micro-dollars) that all train attempts of each run were charged, in one query."""
    of = attempts.c.run_id.in_(run_ids) & (attempts.c.kind == "train")
    sums = sa.func.sum(attempts.c.charged_s), sa.func.sum(attempts.c.charged_usd_micros)
    query = sa.select(attempts.c.run_id, *sums).where(of).group_by(attempts.c.run_id)
    return {row[0]: (float(row[1]), int(row[2])) for row in conn.execute(query)}
