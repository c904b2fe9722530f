"""The record of everything: one database, one module for each thing kept in it. SQLite alone, PostgreSQL for a team."""

from __future__ import annotations

from patron_core.store import (
    approvals,
    attempts,
    audit,
    calibrations,
    leases,
    ledger,
    mirrors,
    notes,
    requests,
    runs,
    searches,
    tokens,
)
from patron_core.store.engine import Store
from patron_core.store.records import (
    Attempt,
    Calibration,
    Lease,
    LedgerEntry,
    Mirror,
    Note,
    NoteRevision,
    Run,
    RunEvent,
    RunMoney,
    RunSummary,
    Search,
    Wallet,
)

__all__ = [
    "Attempt",
    "Calibration",
    "Lease",
    "LedgerEntry",
    "Mirror",
    "Note",
    "NoteRevision",
    "Run",
    "RunEvent",
    "RunMoney",
    "RunSummary",
    "Search",
    "Store",
    "Wallet",
    "approvals",
    "attempts",
    "audit",
    "calibrations",
    "leases",
    "ledger",
    "mirrors",
    "notes",
    "requests",
    "runs",
    "searches",
    "tokens",
]
