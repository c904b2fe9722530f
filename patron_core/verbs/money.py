"""Wallet verbs. A deposit is a person's authorisation to spend: nothing can be held or charged beyond it."""

from __future__ import annotations

import time
from typing import Any

from patron_core.money import MICROS_PER_USD, check_usd_micros
from patron_core.store import Store, ledger
from patron_core.store.records import LedgerEntry, Wallet
from patron_core.verbs.access import asks

DEFAULT_PROJECT = "lab"
MAX_DEPOSIT_USD_MICROS = 1_000_000 * MICROS_PER_USD


@asks("admin")
def deposit(
    store: Store, *, project: str = DEFAULT_PROJECT, usd_micros: int, key: str, actor: str, now: float | None = None
) -> Wallet:
    """Authorise spending. The same key twice deposits once. Raises InvalidInput outside (0, $1,000,000]."""
    check_usd_micros(usd_micros, "deposit", most=MAX_DEPOSIT_USD_MICROS)
    with store.begin() as conn:
        ledger.deposit(
            conn, project=project, usd_micros=usd_micros, key=key, actor=actor, now=_now(now), memo="authorised"
        )
    return ledger.wallet(store, project)


@asks("admin")
def withdraw(
    store: Store, *, project: str = DEFAULT_PROJECT, usd_micros: int, key: str, actor: str, now: float | None = None
) -> Wallet:
    """Take back what is neither held nor spent; the same key does it once. Raises Refused where the wallet is short."""
    check_usd_micros(usd_micros, "withdraw", most=MAX_DEPOSIT_USD_MICROS)
    with store.begin() as conn:
        ledger.withdraw(
            conn, project=project, usd_micros=usd_micros, key=key, actor=actor, now=_now(now), memo="withdrawn"
        )
    return ledger.wallet(store, project)


def wallet(store: Store, project: str = DEFAULT_PROJECT) -> Wallet:
    return ledger.wallet(store, project)


def statement(
    store: Store, project: str = DEFAULT_PROJECT, limit: int = 100, *, run_id: str | None = None
) -> list[LedgerEntry]:
    """Newest first; of one run, or of all."""
    return ledger.statement(store, project, limit, run_id=run_id)


def wallet_dict(wallet: Wallet) -> dict[str, Any]:
    return {
        "project": wallet.project,
        "available_usd_micros": wallet.available_usd_micros,
        "held_usd_micros": wallet.held_usd_micros,
        "spent_usd_micros": wallet.spent_usd_micros,
        "deposited_usd_micros": wallet.deposited_usd_micros,
    }


def _now(now: float | None) -> float:
    return time.time() if now is None else now
