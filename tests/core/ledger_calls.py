"""The ledger's functions, each in a transaction of its own, for the tests of the ledger."""

from __future__ import annotations

from typing import Any

from patron_core.store import Run, RunMoney, Store, Wallet, ledger


def deposit(store: Store, usd_micros: int, key: str = "d", project: str = "p") -> Any:
    with store.begin() as conn:
        return ledger.deposit(conn, project=project, usd_micros=usd_micros, key=key, actor="ada", now=1.0, memo="gift")


def hold(store: Store, run: Run, usd_micros: int, key: str = "h") -> Any:
    with store.begin() as conn:
        return ledger.hold(conn, run, usd_micros, key=key, actor="ada", now=2.0)


def charge(store: Store, run: Run, usd_micros: int, key: str = "c", attempt_id: str | None = None) -> int:
    with store.begin() as conn:
        return ledger.charge(conn, run, attempt_id, usd_micros, key=key, now=3.0)


def release(store: Store, run: Run, key: str = "r") -> int:
    with store.begin() as conn:
        return ledger.release(conn, run, key=key, now=4.0)


def withdraw(store: Store, usd_micros: int, key: str = "w") -> Any:
    with store.begin() as conn:
        return ledger.withdraw(conn, project="p", usd_micros=usd_micros, key=key, actor="ada", now=5.0)


def money(held: int, charged: int, released: int, funded: int) -> RunMoney:
    return RunMoney(
        held_usd_micros=held, charged_usd_micros=charged, released_usd_micros=released, funded_usd_micros=funded
    )


def wallet(available: int, held: int, spent: int, deposited: int, project: str = "p") -> Wallet:
    return Wallet(
        project=project,
        available_usd_micros=available,
        held_usd_micros=held,
        spent_usd_micros=spent,
        deposited_usd_micros=deposited,
    )
