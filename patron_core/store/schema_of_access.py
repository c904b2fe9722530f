"""The tables of who may do what, and of who did: tokens, approvals, audit. See schema.py."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Double, ForeignKey, Index, Integer, String, Table

from patron_core.store.safe_text import SafeText
from patron_core.store.schema import metadata

_Count = BigInteger().with_variant(Integer, "sqlite")


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, SafeText, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> Column[float]:
    return Column(name, Double, nullable=nullable)


def _json(name: str) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), nullable=False)


tokens = Table(
    "tokens",
    metadata,
    Column("id", String(80), primary_key=True),
    _text("name"),
    _text("hash"),
    _json("scopes"),
    _json("allowance"),
    _text("actor"),
    _time("created_at"),
    _time("expires_at", nullable=True),
    _time("revoked_at", nullable=True),
    Index("uq_tokens_name", "name", unique=True),
    Index("uq_tokens_hash", "hash", unique=True),
)

approvals = Table(  # holds that a token asked for and a person decides about
    "approvals",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("run_id", String(80), ForeignKey("runs.id"), nullable=False),
    _text("token"),
    Column("usd_micros", BigInteger, nullable=False),
    _text("state"),  # waiting, approved, refused
    _text("word"),  # of the person
    _text("actor", nullable=True),  # the person
    _time("created_at"),
    _time("decided_at", nullable=True),
    Index("ix_approvals_state_created_at", "state", "created_at"),
    Index("ix_approvals_run_id_token", "run_id", "token", "created_at"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", _Count, primary_key=True, autoincrement=True),
    _time("time"),
    _text("actor"),
    _text("origin"),  # script, page, api, and from which address
    _text("verb"),
    _text("project", nullable=True),
    _text("run_id", nullable=True),  # as it was asked for, not only where there is one
    _text("outcome"),  # done, or the error's code
    _json("detail"),
    Index("ix_audit_actor_id", "actor", "id"),
)
