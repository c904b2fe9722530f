"""The tables of what people are told, and of what they are asked: alerts, feedback. See schema.py."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Double, ForeignKey, Index, Integer, String, Table

from patron_core.store.safe_text import SafeText
from patron_core.store.schema import metadata

_Count = BigInteger().with_variant(Integer, "sqlite")


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, SafeText, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> Column[float]:
    return Column(name, Double, nullable=nullable)


alerts = Table(
    "alerts",
    metadata,
    Column("id", _Count, primary_key=True, autoincrement=True),
    _time("time"),
    _text("kind"),  # states.AlertKind
    _text("project", nullable=True),
    Column("run_id", String(80), ForeignKey("runs.id"), nullable=True),  # None: a test
    _text("name"),  # of the run
    _text("sentence"),
    _text("next"),  # a command
    _time("due_at", nullable=True),  # when it is sent, or tried again; None: there is nothing more to do
    Column("deliveries", JSON(none_as_null=True), nullable=False),  # by channel: tries, sent_at, error
    _time("seen_at", nullable=True),
    _text("seen_by", nullable=True),
    Index("ix_alerts_due_at", "due_at"),
    Index("ix_alerts_seen_at_id", "seen_at", "id"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", String(80), primary_key=True),
    _text("actor"),  # who gives it
    _text("key"),
    _text("about"),  # a run, a verb, a page; or empty
    _text("body"),
    _time("created_at"),
    _text("answer", nullable=True),
    _text("answered_by", nullable=True),
    _time("answered_at", nullable=True),
    Index("uq_feedback_actor_key", "actor", "key", unique=True),
    Index("ix_feedback_created_at", "created_at"),
)
