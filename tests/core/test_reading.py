"""A look is of one moment, and costs few transactions."""

from __future__ import annotations

import threading
from collections.abc import Callable

import sqlalchemy as sa

from patron_core import verbs
from patron_core.store import Run, Store, ledger


def deposit(store: Store, key: str) -> None:
    other = threading.Thread(target=lambda: verbs.deposit(store, project="p", usd_micros=7, key=key, actor="ada"))
    other.start()
    other.join(timeout=60)


def test_a_read_inside_another_is_of_its_moment(store: Store) -> None:
    deposit(store, "before")
    with store.read():
        assert ledger.wallet(store, "p").deposited_usd_micros == 7
        deposit(store, "meanwhile")
        assert ledger.wallet(store, "p").deposited_usd_micros == 7
    assert ledger.wallet(store, "p").deposited_usd_micros == 14


def test_another_token_reads_by_itself(store: Store) -> None:
    with store.read() as conn, store.acting_as(None, origin="test").read() as other:
        assert other is not conn
    with store.read() as conn, store.read() as same:
        assert same is conn


def test_what_is_asked_most_takes_few_transactions(store: Store, make_run: Callable[..., Run]) -> None:
    run = make_run(store)
    begun: list[str] = []
    sa.event.listen(store._engine, "begin", lambda conn: begun.append("one"))
    verbs.view(store, run.id)
    assert len(begun) == 1
    verbs.lab(store, "p")
    assert len(begun) == 3  # the runs' own directories are looked into between the two
