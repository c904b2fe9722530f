"""How far the books were checked, what was found, and the sums up to there: see books.py, and schema.py."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, String, Table

from patron_core.store.safe_text import SafeText
from patron_core.store.schema import metadata

ledger_checks = Table(
    "ledger_checks",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),  # 1: there is one
    Column("transfer_id", BigInteger, nullable=False),
    Column("problems", JSON(none_as_null=True), nullable=False),
)

balances = Table(
    "balances",
    metadata,
    Column("account", SafeText, primary_key=True),
    Column("project", SafeText, nullable=False),
    Column("book", SafeText, nullable=False),
    Column("usd_micros", BigInteger, nullable=False),
    Index("ix_balances_project_book", "project", "book", "usd_micros"),
)

run_sums = Table(
    "run_sums",
    metadata,
    Column("run_id", String(80), ForeignKey("runs.id"), primary_key=True),
    Column("kind", SafeText, primary_key=True),
    Column("usd_micros", BigInteger, nullable=False),
)
