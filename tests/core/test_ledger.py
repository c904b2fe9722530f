"""The ledger: it balances, nothing goes below zero, and a key does one thing once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa
from ledger_calls import charge, deposit, hold, money, release, wallet, withdraw

from patron_core.errors import Conflict, InvalidInput, NotFound, Refused
from patron_core.money import MAX_USD_MICROS
from patron_core.states import EndReason
from patron_core.store import Run, Store, attempts, books, ledger
from patron_core.store.schema import entries, transfers


def test_the_life_of_a_run(store: Store, make_run) -> None:
    run = make_run(store)
    assert ledger.wallet(store, "p") == wallet(0, 0, 0, 0)
    assert ledger.run_money(store, run.id) == money(0, 0, 0, 0)
    deposit(store, 1000)
    hold(store, run, 600)
    assert ledger.wallet(store, "p") == wallet(400, 600, 0, 1000)
    assert charge(store, run, 250) == 250
    assert release(store, run) == 350
    assert ledger.wallet(store, "p") == wallet(750, 0, 250, 1000)
    assert ledger.run_money(store, run.id) == money(0, 250, 350, 600)
    withdraw(store, 750)
    assert ledger.wallet(store, "p") == wallet(0, 0, 250, 250)
    assert ledger.verify(store) == []
    lines = ledger.statement(store, "p")
    assert [(line.kind, line.usd_micros) for line in lines] == [
        ("withdraw", 750),
        ("release", 350),
        ("charge", 250),
        ("hold", 600),
        ("deposit", 1000),
    ]
    assert (lines[-1].source, lines[-1].target, lines[-1].memo) == ("outside:p", "wallet:p", "gift")
    assert len(ledger.statement(store, "p", 2)) == 2
    assert ledger.runs_money(store, [run.id, "r-other"])["r-other"] == money(0, 0, 0, 0)


def test_a_short_wallet_refuses_and_says_how_much(store: Store, make_run) -> None:
    run = make_run(store)
    deposit(store, 1_000_000)
    with pytest.raises(Refused, match=r"has \$1.00, run \w+ needs \$4.36") as caught:
        hold(store, run, 4_360_000)
    assert "--deposit 3.36 --yes" in caught.value.next
    with pytest.raises(Refused, match=r"has \$1.00"):
        withdraw(store, 1_000_001)
    assert ledger.wallet(store, "p").available_usd_micros == 1_000_000
    deposit(store, 3_360_000, key="d2")
    hold(store, run, 4_360_000)  # the refusal did not use up its key


def test_projects_do_not_share_money(store: Store, make_run) -> None:
    deposit(store, 1000, project="rich")
    with pytest.raises(Refused):
        hold(store, make_run(store, project="poor"), 1)
    assert ledger.wallet(store, "poor") == wallet(0, 0, 0, 0, project="poor")


def test_never_more_than_is_held(store: Store, make_run) -> None:
    run = make_run(store)
    deposit(store, 1000)
    assert charge(store, run, 5, key="before") == 0
    hold(store, run, 100)
    assert charge(store, run, 70, key="c1") == 70
    assert charge(store, run, 70, key="c2") == 30
    assert charge(store, run, 70, key="c3") == 0
    assert charge(store, run, 0, key="c4") == 0
    assert release(store, run) == 0
    assert ledger.wallet(store, "p") == wallet(900, 0, 100, 1000)
    assert ledger.verify(store) == []


def test_a_key_does_one_thing_once(store: Store, make_run) -> None:
    run, other = make_run(store), make_run(store)
    assert deposit(store, 1000) == deposit(store, 1000)
    assert hold(store, run, 400) == hold(store, run, 400)
    assert charge(store, run, 500) == charge(store, run, 500) == 400
    hold(store, run, 100, key="top-up")
    assert charge(store, run, 500) == 400  # answered as the first time, though there is money again
    assert release(store, run) == 100
    hold(store, run, 50, key="once more")
    assert release(store, run) == 100
    assert ledger.run_money(store, run.id).held_usd_micros == 50
    assert withdraw(store, 10) == withdraw(store, 10)
    for conflicting in (
        lambda: deposit(store, 999),
        lambda: hold(store, run, 399),
        lambda: hold(store, other, 400),
        lambda: charge(store, run, 499),
        lambda: release(store, other),
        lambda: withdraw(store, 11),
        lambda: deposit(store, 400, key="h"),
    ):
        with pytest.raises(Conflict, match="was used before"):
            conflicting()
    assert ledger.wallet(store, "p") == wallet(540, 50, 400, 990)
    deposit(store, 999, project="another project")  # keys are of one project


@pytest.mark.parametrize("usd_micros", [0, -1, MAX_USD_MICROS + 1])
def test_amounts_that_are_none(store: Store, make_run, usd_micros: int) -> None:
    run = make_run(store)
    deposit(store, 1000, key="some")
    calls = [lambda: deposit(store, usd_micros), lambda: hold(store, run, usd_micros)]
    calls += [lambda: withdraw(store, usd_micros)]
    calls += [lambda: charge(store, run, usd_micros)] if usd_micros else []
    for call in calls:
        with pytest.raises(InvalidInput):
            call()
    assert ledger.wallet(store, "p") == wallet(1000, 0, 0, 1000)


def test_a_run_that_does_not_exist(store: Store, make_run) -> None:
    ghost = replace(make_run(store), id="r-ghost")
    for call in (lambda: hold(store, ghost, 1), lambda: charge(store, ghost, 1), lambda: release(store, ghost)):
        with pytest.raises(NotFound):
            call()


def test_large_sums_stay_exact(store: Store, make_run) -> None:
    run = make_run(store)
    for number in range(9):
        deposit(store, MAX_USD_MICROS, key=f"d{number}")
    hold(store, run, MAX_USD_MICROS - 1)
    assert ledger.wallet(store, "p").available_usd_micros == 8 * MAX_USD_MICROS + 1


def test_charging_up_to_a_total(store: Store, make_run) -> None:
    run = make_run(store)
    deposit(store, 1000)
    hold(store, run, 100)
    with store.begin() as conn:
        first, price = "", {"usd_per_hour": 1}
        for kind in ("dryrun", "train"):
            attempt = attempts.create(conn, run, kind=kind, usd_micros_per_hour=1, price=price, now=1.0)
            first = first or attempt.id
            attempts.ended(conn, attempt.id, reason=EndReason.LOST, exit_code=None, evidence={}, now=2.0)
        totals = [30, 30, 10, 50]
        assert [ledger.charge_up_to(conn, run, first, total, now=3.0) for total in totals] == [30, 30, 30, 50]
        assert ledger.charge_up_to(conn, run, attempt.id, 40, now=3.0) == 40
        assert ledger.charge_up_to(conn, run, first, 80, now=3.0) == 60  # the hold is used up
        assert ledger.charge_up_to(conn, run, first, 80, now=3.0) == 60
        ledger.hold(conn, run, 100, key="top-up", actor="ada", now=4.0)
        assert ledger.charge_up_to(conn, run, first, 80, now=4.0) == 80
    assert ledger.run_money(store, run.id) == money(80, 120, 0, 200)
    assert ledger.verify(store) == []


def test_verify_finds_what_is_wrong(store: Store) -> None:
    deposit(store, 100)
    row = {"project": "p", "kind": "charge", "asked_usd_micros": 7, "usd_micros": 7, "source": "a", "target": "b"}
    row |= {"memo": "", "actor": "x", "time": 1.0}
    with store.begin() as conn:  # what only a hand in the database can do
        conn.execute(sa.insert(transfers).values(id=501, key="lopsided", **row))
        lopsided = {"transfer_id": 501, "account": "hold:rx", "project": "p", "book": "hold", "usd_micros": -7}
        conn.execute(sa.insert(entries).values(**lopsided))
        conn.execute(sa.insert(transfers).values(id=502, key="empty", **row))
    problems = ledger.verify(store)
    assert len(problems) == 3
    assert any("transfer 501" in each and "sum -7" in each for each in problems)
    assert any("transfer 502" in each for each in problems)
    assert any("account hold:rx is at -7" in each for each in problems)


def test_checking_goes_on_from_where_it_stands_and_every_sum_stays_the_same(
    store: Store, make_run: Callable[..., Run]
) -> None:
    run = make_run(store)
    deposit(store, 1000)

    def sums() -> tuple[object, ...]:
        return ledger.wallet(store, "p"), ledger.run_money(store, run.id), books.problems(store), ledger.verify(store)

    with store.begin() as conn:
        ledger.hold(conn, run, 500, key="h", actor="ada", now=1.0)
        for total in range(1, 40):
            ledger.charge(conn, run, None, 2, key=f"c{total}", now=1.0)
    before = sums()
    assert before[2:] == ([], [])
    assert [books.check_on(store, at_once=25), books.num_unchecked(store)] == [25, 16]
    assert sums() == before
    assert [books.check_on(store), books.check_on(store), books.num_unchecked(store)] == [16, 0, 0]
    assert sums() == before
    with store.begin() as conn:
        assert ledger.charge(conn, run, None, 1000, key="all", now=1.0) == 500 - 2 * 39
        with pytest.raises(Refused):
            ledger.hold(conn, run, 501, key="h2", actor="ada", now=1.0)
    assert ledger.wallet(store, "p").spent_usd_micros == 500
    assert books.num_unchecked(store) == 1


def test_a_kept_sum_of_a_run_that_is_wrong_is_found(store: Store, make_run) -> None:
    """Caps and settlements go by it."""
    run = make_run(store)
    deposit(store, 1000)
    with store.begin() as conn:
        ledger.hold(conn, run, 500, key="h", actor="ada", now=1.0)
    books.check_on(store)
    assert ledger.verify(store) == []
    with store.begin() as conn:
        conn.execute(sa.text("UPDATE run_sums SET usd_micros = 499"))
    assert ledger.verify(store) == [f"hold of run {run.id} is kept at 499 micro-dollars, its entries make 500"]


def test_what_is_found_wrong_once_stays_said(store: Store) -> None:
    deposit(store, 100)
    row = {"project": "p", "kind": "charge", "asked_usd_micros": 7, "usd_micros": 7, "source": "hold:rx", "target": "b"}
    with store.begin() as conn:
        conn.execute(sa.insert(transfers).values(id=501, key="lopsided", memo="", actor="x", time=1.0, **row))
        lopsided = {"transfer_id": 501, "account": "hold:rx", "project": "p", "book": "hold", "usd_micros": -7}
        conn.execute(sa.insert(entries).values(**lopsided))
    before = books.problems(store)
    assert len(before) == 2
    books.check_on(store)
    assert books.problems(store) == before
    with store.begin() as conn:
        conn.execute(sa.text("UPDATE balances SET usd_micros = 99 WHERE account = 'wallet:p'"))
    assert any("kept at 99" in said for said in ledger.verify(store))
