"""The record of everything: one database, one module for each thing kept in it. SQLite alone, PostgreSQL for a team."""

from __future__ import annotations

from patron_core.store import (
    attempts,
    calibrations,
    hosts,
    labs,
    leases,
    ledger,
    mirrors,
    notes,
    requests,
    runs,
    searches,
)
from patron_core.store.engine import Store
from patron_core.store.records import (
    Attempt,
    Calibration,
    Host,
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
    "Host",
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
    "attempts",
    "calibrations",
    "hosts",
    "labs",
    "leases",
    "ledger",
    "mirrors",
    "notes",
    "requests",
    "runs",
    "searches",
]
