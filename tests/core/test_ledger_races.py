"""The ledger under several writers: threads, processes, and one that waits for another."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import pytest
import sqlalchemy as sa
from ledger_calls import charge, deposit, hold, release, wallet, withdraw

from patron_core.errors import Refused
from patron_core.store import Run, Store, books, ledger


def test_racing_holds_never_overdraw(store: Store, make_run, in_threads) -> None:
    made = [make_run(store) for _ in range(10)]
    deposit(store, 350)
    results = in_threads(lambda number: hold(store, made[number], 100, key=f"h{number}"), 10)
    assert sum(isinstance(each, Refused) for each in results) == 7
    assert ledger.wallet(store, "p") == wallet(50, 300, 0, 350)
    assert ledger.verify(store) == []


@pytest.mark.parametrize(("second", "left"), [("hold", 50), ("withdraw", 50), ("charge", 0), ("release", 0)])
def test_the_second_waits_for_the_first(store: Store, make_run, second: str, left: int) -> None:
    """While a transaction has taken money and not committed, nobody else may count on that money."""
    run, other = make_run(store), make_run(store)
    deposit(store, 150)
    if second in ("charge", "release"):
        hold(store, run, 150)
    outcome: list[Any] = []

    def work() -> None:
        calls = {
            "hold": lambda: hold(store, other, 100, key="second"),
            "withdraw": lambda: withdraw(store, 100),
            "charge": lambda: charge(store, run, 100, key="second"),
            "release": lambda: release(store, run),
        }
        try:
            outcome.append(calls[second]())
        except Refused as error:
            outcome.append(error)

    late = threading.Thread(target=work)
    with store.begin() as conn:
        if second in ("charge", "release"):
            ledger.charge(conn, run, None, 100, key="first", now=2.0)
        else:
            ledger.hold(conn, run, 100, key="first", actor="ada", now=2.0)
        late.start()
        late.join(timeout=0.3)  # long enough for one that doesn't wait to do its harm
        assert outcome == []
    late.join()
    assert ledger.verify(store) == []
    if second in ("charge", "release"):
        assert outcome == [50]
        assert ledger.run_money(store, run.id).held_usd_micros == left
    else:
        assert isinstance(outcome[0], Refused)
        assert ledger.wallet(store, "p").available_usd_micros == left


def test_racing_holds_with_one_key_hold_once(store: Store, make_run, in_threads) -> None:
    run = make_run(store)
    deposit(store, 1000)
    results = in_threads(lambda _: hold(store, run, 100).id, 8)
    assert len(set(results)) == 1
    assert ledger.wallet(store, "p").held_usd_micros == 100


def test_racing_deposits_with_one_key_deposit_once(store: Store, in_threads) -> None:
    assert len({each.id for each in in_threads(lambda _: deposit(store, 100), 8)}) == 1
    assert ledger.wallet(store, "p") == wallet(100, 0, 0, 100)


def test_racing_charges_and_a_release_never_spend_more_than_is_held(store: Store, make_run, in_threads) -> None:
    run = make_run(store)
    deposit(store, 1000)
    hold(store, run, 500)

    def work(number: int) -> int:
        return release(store, run) if number == 5 else charge(store, run, 70, key=f"c{number}")

    moved = in_threads(work, 12)
    assert sum(moved) == 500
    assert ledger.verify(store) == []
    assert ledger.run_money(store, run.id).held_usd_micros == 0


def _hold_in_a_process(url: str, made: list[Run], barrier: threading.Barrier, held: Any) -> None:
    store = Store.open(url)
    barrier.wait()
    count = 0
    for run in made:
        try:
            hold(store, run, 100, key=f"h {run.id}")
            count += 1
        except Refused:
            pass
    store.close()
    held.put(count)


def test_racing_holds_in_processes_never_overdraw(store: Store, make_run) -> None:
    made = [make_run(store) for _ in range(30)]
    deposit(store, 1050)
    url = store.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("spawn")
    held, barrier = context.Queue(), context.Barrier(3)
    shares = [made[number::3] for number in range(3)]
    workers = [context.Process(target=_hold_in_a_process, args=(url, share, barrier, held)) for share in shares]
    for worker in workers:
        worker.start()
    assert sum(held.get(timeout=60) for _ in workers) == 10
    for worker in workers:
        worker.join(timeout=60)
    assert ledger.wallet(store, "p") == wallet(50, 1000, 0, 1050)
    assert ledger.verify(store) == []


def test_what_is_checked_on_in_the_middle_of_a_sum_is_in_it_once(postgres_store: Store, make_run) -> None:
    """A write transaction on PostgreSQL sees what others commit: a cap would be looked at with too little spent."""
    store, run = postgres_store, make_run(postgres_store)
    deposit(store, 1000)
    hold(store, run, 100)
    checks: list[int] = []

    def check_on(*_: Any) -> None:
        if not checks:
            checks.append(0)
            checks[0] = books.check_on(store_of_another)

    store_of_another = Store.open(store.url.render_as_string(hide_password=False))
    sums = (
        lambda conn: ledger.run_money(conn, run.id).held_usd_micros,
        lambda conn: ledger.wallet(conn, "p").held_usd_micros,
        lambda conn: books.balance(conn, f"hold:{run.id}"),
    )
    for number, work in enumerate(sums, 1):
        with store.begin() as conn:
            sa.event.listen(conn, "after_cursor_execute", check_on)
            assert work(conn) == 100 * number
        assert checks.pop() > 0
        hold(store, run, 100, key=f"h{number}")
    store_of_another.close()
