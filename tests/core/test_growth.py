"""What work costs, counted, not timed: it must not grow with the number of runs, their history, or who watches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from patron_core import verbs
from patron_core.states import RunState
from patron_core.store import Run, Store, books, ledger, runs
from patron_core.verbs import shared


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """Those that the database is asked for meanwhile, without the beginnings and ends of transactions."""
    seen: list[str] = []

    def count(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith(("PRAGMA", "BEGIN")):
            seen.append(statement)

    sa.event.listen(store._engine, "before_cursor_execute", count)
    yield seen
    sa.event.remove(store._engine, "before_cursor_execute", count)


@contextmanager
def database_steps(store: Store) -> Iterator[list[int]]:
    """One entry for each hundred instructions of SQLite's machine meanwhile: what queries cost, and no clock."""
    steps: list[int] = []
    with store.read() as conn:
        connection = conn.connection.driver_connection
    assert connection is not None
    connection.set_progress_handler(lambda: steps.append(1), 100)
    yield steps
    connection.set_progress_handler(None, 0)


def test_who_waits_for_a_person_is_a_query_without_a_limit(
    sqlite_store: Store, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [make_run(sqlite_store, name=f"old {number}", now=float(number)) for number in range(5)]
    with sqlite_store.begin() as conn:
        for run in waiting:
            runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="a", now=1.0)
            runs.transition(conn, run.id, old=RunState.DRYRUN, new=RunState.AWAITING_FUNDING, actor="a", now=1.0)
    for number in range(5):
        make_run(sqlite_store, name=f"new {number}", now=100.0 + number)
    seen = verbs.lab(sqlite_store, "p", limit=3)
    assert [run.name for run in seen.runs] == ["new 4", "new 3", "new 2"]
    assert {run.id for run in seen.attention} == {run.id for run in waiting}
    assert {one.run.id for one in seen.waiting} == {run.id for run in waiting}


def test_the_lab_asks_as_much_for_many_runs_as_for_few(sqlite_store: Store, make_run: Callable[..., Run]) -> None:
    make_run(sqlite_store)
    proven = [make_run(sqlite_store, name=f"proven {number}") for number in range(6)]
    for number, run in enumerate(proven):
        with sqlite_store.begin() as conn:
            runs.transition(conn, run.id, old=RunState.DRAFT, new=RunState.DRYRUN, actor="a", now=1.0)
            runs.transition(conn, run.id, old=RunState.DRYRUN, new=RunState.AWAITING_FUNDING, actor="a", now=1.0)
        if number == 0:
            with statements(sqlite_store) as few:
                verbs.lab(sqlite_store, "p")
    for number in range(40):
        make_run(sqlite_store, name=f"run {number}")
    with statements(sqlite_store) as many:
        verbs.lab(sqlite_store, "p")
    assert len(many) == len(few)


def test_money_is_summed_from_what_was_checked_on(sqlite_store: Store, make_run: Callable[..., Run]) -> None:
    """Lab, wallet, a run's money and a charge: the same work after 3,000 transfers as after 100."""
    run = make_run(sqlite_store)

    def work() -> int:
        books.check_on(sqlite_store)
        with database_steps(sqlite_store) as steps:
            verbs.lab(sqlite_store, "p")
            ledger.run_money(sqlite_store, run.id)
            with sqlite_store.begin() as conn:
                books.balance(conn, f"hold:{run.id}")
        return len(steps)

    def charge(first: int, count: int) -> None:
        with sqlite_store.begin() as conn:
            for number in range(first, first + count):
                ledger.charge(conn, run, None, 1, key=f"c{number}", now=1.0)

    with sqlite_store.begin() as conn:
        ledger.deposit(conn, project="p", usd_micros=10**6, key="d", actor="ada", now=1.0)
        ledger.hold(conn, run, 10**5, key="h", actor="ada", now=1.0)
    charge(0, 100)
    few = work()
    charge(100, 3000)
    with database_steps(sqlite_store) as unchecked:
        verbs.lab(sqlite_store, "p")
    assert work() < few + 30 < len(unchecked)
    assert ledger.run_money(sqlite_store, run.id).charged_usd_micros == 3100


def test_one_look_serves_all_sessions(
    sqlite_store: Store, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(sqlite_store)
    looks: list[str] = []
    real = shared.view

    def counted(store: Store, run_id: str) -> verbs.RunView:
        looks.append(run_id)
        return real(store, run_id)

    monkeypatch.setattr(shared, "view", counted)
    monkeypatch.setattr(shared, "FRESH_S", 3600.0)
    sessions = [threading.Thread(target=verbs.shared_view, args=(sqlite_store, run.id)) for _ in range(6)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    assert looks == [run.id]
    with sqlite_store.begin() as conn:
        runs.set_fields(conn, run.id, now=200.0, stop_requested="cancel")
    assert verbs.shared_view(sqlite_store, run.id).run.stop_requested == "cancel"
    monkeypatch.setattr(shared, "FRESH_S", 0.0)
    verbs.shared_view(sqlite_store, run.id)
    assert len(looks) == 3
