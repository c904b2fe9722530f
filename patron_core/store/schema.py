"""The tables, as the code reads and writes them. The migrations make them; a test compares the two.

Append-only tables (transfers, entries, run_events, note_revisions, search_decisions, audit) are guarded by triggers
that the migrations make: the database itself refuses UPDATE and DELETE there.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    text,
)

from patron_core.store.safe_text import SafeText

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
APPEND_ONLY = ("transfers", "entries", "run_events", "note_revisions", "search_decisions", "audit")
_Json = JSON(none_as_null=True)
_Count = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts by itself only in an INTEGER primary key


def _id() -> Column[str]:
    return Column("id", String(80), primary_key=True)


def _number() -> Column[int]:
    return Column("id", _Count, primary_key=True, autoincrement=True)


def _name(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, SafeText, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> Column[float]:
    return Column(name, Double, nullable=nullable)


def _money(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, _Json, nullable=nullable)


def _run_id(*, nullable: bool = False) -> Column[str]:
    return Column("run_id", String(80), ForeignKey("runs.id"), nullable=nullable)


lab = Table(
    "lab",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),  # 1: there is one
    _name("id"),
    _name("readable_from"),  # the oldest checkout that can read this database, by its newest migration
    _time("created_at"),
)

runs = Table(
    "runs",
    metadata,
    _id(),
    _name("project"),
    _name("name"),
    _name("state"),
    _name("reason", nullable=True),
    _name("detail"),
    _name("workload"),
    _name("spec_hash"),
    _name("executor"),
    _name("run_dir"),
    _money("max_usd_micros", nullable=True),
    _name("stop_requested", nullable=True),
    Column("failures", Integer, nullable=False),
    _name("key", nullable=True),
    _name("actor"),
    Column("host_id", String(80), nullable=True),  # whose a local run is; None: rented, or from before there were hosts
    _time("created_at"),
    _time("updated_at"),
    # last, since they are wide: a list of summaries need not read past them
    _json("spec"),
    _json("estimate", nullable=True),
    _json("dryrun", nullable=True),
    _json("result", nullable=True),
    Index("uq_runs_project_key", "project", "key", unique=True),
    Index("ix_runs_project_created_at", "project", "created_at"),
    Index("ix_runs_created_at", "created_at"),
    Index("ix_runs_state_created_at", "state", "created_at"),
    Index("ix_runs_name_created_at", "name", "created_at"),
)

_TO_BE_STOPPED = "reason = 'written_off' AND stop_cause IS NULL"

attempts = Table(
    "attempts",
    metadata,
    _id(),
    _run_id(),
    Column("number", Integer, nullable=False),
    _name("kind"),
    _name("executor"),
    _name("state"),
    _json("handle", nullable=True),
    _money("usd_micros_per_hour"),
    _json("price"),
    _name("control_key", nullable=True),
    _time("deadline_s", nullable=True),
    _name("stop_cause", nullable=True),
    _time("stop_asked_at", nullable=True),
    _time("started_at", nullable=True),
    _time("ended_at", nullable=True),
    _time("charged_s"),
    _money("charged_usd_micros"),
    _name("reason", nullable=True),
    Column("exit_code", Integer, nullable=True),
    _json("evidence"),
    _time("created_at"),
    Index("uq_attempts_run_id_kind_number", "run_id", "kind", "number", unique=True),
    # one machine at a time for a run: the database says no to a second launch
    Index(
        "uq_attempts_live",
        "run_id",
        unique=True,
        sqlite_where=text("state <> 'ended'"),
        postgresql_where=text("state <> 'ended'"),
    ),
    # given up while its machine was away, and not stopped yet
    Index(
        "ix_attempts_written_off", "run_id", sqlite_where=text(_TO_BE_STOPPED), postgresql_where=text(_TO_BE_STOPPED)
    ),
)

run_events = Table(
    "run_events",
    metadata,
    _number(),
    _run_id(),
    _time("time"),
    _name("actor"),
    _name("kind"),
    _name("old", nullable=True),
    _name("new", nullable=True),
    _name("reason", nullable=True),
    _json("detail"),
    Index("ix_run_events_run_id_id", "run_id", "id"),
)

transfers = Table(
    "transfers",
    metadata,
    _number(),
    _name("project"),
    _name("key"),
    _name("kind"),
    _money("usd_micros"),
    _money("asked_usd_micros"),
    _name("source"),
    _name("target"),
    _run_id(nullable=True),
    Column("attempt_id", String(80), ForeignKey("attempts.id"), nullable=True),
    _name("memo"),
    _name("actor"),
    _time("time"),
    Index("uq_transfers_project_key", "project", "key", unique=True),
    Index("ix_transfers_project_id", "project", "id"),
    Index("ix_transfers_run_id_kind", "run_id", "kind", "attempt_id", "usd_micros"),
    Index("ix_transfers_actor_kind", "actor", "kind", "run_id", "time", "usd_micros"),
)

entries = Table(
    "entries",
    metadata,
    Column("transfer_id", _Count, ForeignKey("transfers.id"), primary_key=True),
    Column("account", SafeText, primary_key=True),
    _name("project"),
    _name("book"),  # outside, wallet, hold, spent: the account's name before its colon
    _money("usd_micros"),
    # both hold everything that a balance needs, so that a sum reads an index only
    Index("ix_entries_account", "account", "usd_micros"),
    Index("ix_entries_project_book", "project", "book", "usd_micros"),
)

notes = Table(
    "notes",
    metadata,
    _id(),
    _name("project"),
    _run_id(nullable=True),
    _name("kind"),
    _name("title"),
    _name("body"),
    Column("revision", Integer, nullable=False),
    _name("actor"),
    _time("created_at"),
    _time("updated_at"),
    _json("links"),
    Index("ix_notes_project_updated_at", "project", "updated_at"),
    Index("ix_notes_run_id", "run_id"),
)

note_revisions = Table(
    "note_revisions",
    metadata,
    Column("note_id", String(80), ForeignKey("notes.id"), primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    _name("kind"),
    _name("title"),
    _name("body"),
    _json("links"),
    _name("actor"),
    _time("time"),
)

hosts = Table(
    "hosts",
    metadata,
    _id(),
    _name("name"),
    _name("user"),
    _name("home"),
    _name("boot_id"),
    _time("last_heard_at"),  # by the database's clock
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(80), primary_key=True),
    _name("holder"),
    _time("expires_at"),
    _time("ttl_s"),
)

calibrations = Table(
    "calibrations",
    metadata,
    _number(),
    _name("machine"),
    _name("kind"),
    _json("values"),
    _run_id(nullable=True),
    _time("time"),
    Index("ix_calibrations_machine_kind_id", "machine", "kind", "id"),
)

mirrors = Table(
    "mirrors",
    metadata,
    Column("run_id", String(80), ForeignKey("runs.id"), primary_key=True),
    _name("mlflow_run_id"),  # empty: there was nothing to mirror
    _json("position"),
    _time("updated_at"),
    _time("rested_at", nullable=True),  # the run's updated_at, where it rested and all of it is mirrored as it was then
    _time("synced_at", nullable=True),  # by the database's clock: when the tracker last had all that there was
    _name("error", nullable=True),  # why the newest try since then failed
)

searches = Table(
    "searches",
    metadata,
    _id(),
    _name("project"),
    _name("key"),
    _json("question"),
    _name("state"),
    _json("result", nullable=True),
    _time("created_at"),
    _time("updated_at"),
    Index("uq_searches_project_key", "project", "key", unique=True),
    Index("ix_searches_project_created_at", "project", "created_at"),
)

search_decisions = Table(
    "search_decisions",
    metadata,
    Column("search_id", String(80), ForeignKey("searches.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    _json("decision"),
    _time("time"),
)

run_tags = Table(
    "run_tags",
    metadata,
    Column("run_id", String(80), ForeignKey("runs.id"), primary_key=True),
    Column("tag", String(100), primary_key=True),
    Index("ix_run_tags_tag", "tag"),
)
