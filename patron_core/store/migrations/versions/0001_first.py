"""The first schema: runs, attempts, events, ledger, notes, leases, calibrations, mirrors, searches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(length=80)
TEXT = sa.Text()
INT = sa.Integer()
MONEY = sa.BigInteger()  # micro-dollars
TIME: sa.Double[float] = sa.Double()  # unix seconds
JSON = sa.JSON(none_as_null=True)
COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

APPEND_ONLY = ("transfers", "entries", "run_events", "note_revisions", "search_decisions")


def upgrade() -> None:
    _runs()
    _attempts()
    _run_events()
    _mirrors()
    _transfers()
    _entries()
    _notes()
    _note_revisions()
    _searches()
    _search_decisions()
    _leases()
    _calibrations()
    _forbid_changes()


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", ID, nullable=False),
        sa.Column("project", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=True),
        sa.Column("detail", TEXT, nullable=False),
        sa.Column("workload", TEXT, nullable=False),
        sa.Column("spec_hash", TEXT, nullable=False),
        sa.Column("executor", TEXT, nullable=False),
        sa.Column("run_dir", TEXT, nullable=False),
        sa.Column("max_usd_micros", MONEY, nullable=True),
        sa.Column("stop_requested", TEXT, nullable=True),
        sa.Column("failures", INT, nullable=False),
        sa.Column("key", TEXT, nullable=True),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("estimate", JSON, nullable=True),
        sa.Column("dryrun", JSON, nullable=True),
        sa.Column("result", JSON, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_created_at", "runs", ["created_at"], unique=False)
    op.create_index("ix_runs_name_created_at", "runs", ["name", "created_at"], unique=False)
    op.create_index("ix_runs_project_created_at", "runs", ["project", "created_at"], unique=False)
    op.create_index("ix_runs_state_created_at", "runs", ["state", "created_at"], unique=False)
    op.create_index("uq_runs_project_key", "runs", ["project", "key"], unique=True)


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("number", INT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("executor", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("handle", JSON, nullable=True),
        sa.Column("usd_micros_per_hour", MONEY, nullable=False),
        sa.Column("price", JSON, nullable=False),
        sa.Column("deadline_s", TIME, nullable=True),
        sa.Column("stop_cause", TEXT, nullable=True),
        sa.Column("stop_asked_at", TIME, nullable=True),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("charged_s", TIME, nullable=False),
        sa.Column("charged_usd_micros", MONEY, nullable=False),
        sa.Column("reason", TEXT, nullable=True),
        sa.Column("exit_code", INT, nullable=True),
        sa.Column("evidence", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_attempts_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
    )
    op.create_index(
        "uq_attempts_live",
        "attempts",
        ["run_id"],
        unique=True,
        sqlite_where=sa.text("state <> 'ended'"),
        postgresql_where=sa.text("state <> 'ended'"),
    )
    op.create_index("uq_attempts_run_id_kind_number", "attempts", ["run_id", "kind", "number"], unique=True)


def _run_events() -> None:
    op.create_table(
        "run_events",
        sa.Column("id", COUNT, autoincrement=True, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("old", TEXT, nullable=True),
        sa.Column("new", TEXT, nullable=True),
        sa.Column("reason", TEXT, nullable=True),
        sa.Column("detail", JSON, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_events_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_run_events"),
    )
    op.create_index("ix_run_events_run_id_id", "run_events", ["run_id", "id"], unique=False)


def _mirrors() -> None:
    op.create_table(
        "mirrors",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("mlflow_run_id", TEXT, nullable=False),
        sa.Column("position", JSON, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_mirrors_run_id"),
        sa.PrimaryKeyConstraint("run_id", name="pk_mirrors"),
    )


def _transfers() -> None:
    op.create_table(
        "transfers",
        sa.Column("id", COUNT, autoincrement=True, nullable=False),
        sa.Column("project", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("usd_micros", MONEY, nullable=False),
        sa.Column("asked_usd_micros", MONEY, nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("target", TEXT, nullable=False),
        sa.Column("run_id", ID, nullable=True),
        sa.Column("attempt_id", ID, nullable=True),
        sa.Column("memo", TEXT, nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempts.id"], name="fk_transfers_attempt_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_transfers_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_transfers"),
    )
    op.create_index("ix_transfers_project_id", "transfers", ["project", "id"], unique=False)
    op.create_index(
        "ix_transfers_run_id_kind", "transfers", ["run_id", "kind", "attempt_id", "usd_micros"], unique=False
    )
    op.create_index("uq_transfers_project_key", "transfers", ["project", "key"], unique=True)


def _entries() -> None:
    op.create_table(
        "entries",
        sa.Column("transfer_id", COUNT, nullable=False),
        sa.Column("account", TEXT, nullable=False),
        sa.Column("project", TEXT, nullable=False),
        sa.Column("book", TEXT, nullable=False),
        sa.Column("usd_micros", MONEY, nullable=False),
        sa.ForeignKeyConstraint(["transfer_id"], ["transfers.id"], name="fk_entries_transfer_id"),
        sa.PrimaryKeyConstraint("transfer_id", "account", name="pk_entries"),
    )
    op.create_index("ix_entries_account", "entries", ["account", "usd_micros"], unique=False)
    op.create_index("ix_entries_project_book", "entries", ["project", "book", "usd_micros"], unique=False)


def _notes() -> None:
    op.create_table(
        "notes",
        sa.Column("id", ID, nullable=False),
        sa.Column("project", TEXT, nullable=False),
        sa.Column("run_id", ID, nullable=True),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("title", TEXT, nullable=False),
        sa.Column("body", TEXT, nullable=False),
        sa.Column("revision", INT, nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("links", JSON, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_notes_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
    )
    op.create_index("ix_notes_project_updated_at", "notes", ["project", "updated_at"], unique=False)
    op.create_index("ix_notes_run_id", "notes", ["run_id"], unique=False)


def _note_revisions() -> None:
    op.create_table(
        "note_revisions",
        sa.Column("note_id", ID, nullable=False),
        sa.Column("revision", INT, autoincrement=False, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("title", TEXT, nullable=False),
        sa.Column("body", TEXT, nullable=False),
        sa.Column("links", JSON, nullable=False),
        sa.Column("actor", TEXT, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.ForeignKeyConstraint(["note_id"], ["notes.id"], name="fk_note_revisions_note_id"),
        sa.PrimaryKeyConstraint("note_id", "revision", name="pk_note_revisions"),
    )


def _searches() -> None:
    op.create_table(
        "searches",
        sa.Column("id", ID, nullable=False),
        sa.Column("project", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("question", JSON, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_searches"),
    )
    op.create_index("ix_searches_project_created_at", "searches", ["project", "created_at"], unique=False)
    op.create_index("uq_searches_project_key", "searches", ["project", "key"], unique=True)


def _search_decisions() -> None:
    op.create_table(
        "search_decisions",
        sa.Column("search_id", ID, nullable=False),
        sa.Column("number", INT, autoincrement=False, nullable=False),
        sa.Column("decision", JSON, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name="fk_search_decisions_search_id"),
        sa.PrimaryKeyConstraint("search_id", "number", name="pk_search_decisions"),
    )


def _leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", ID, nullable=False),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("ttl_s", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def _calibrations() -> None:
    op.create_table(
        "calibrations",
        sa.Column("id", COUNT, autoincrement=True, nullable=False),
        sa.Column("machine", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("values", JSON, nullable=False),
        sa.Column("run_id", ID, nullable=True),
        sa.Column("time", TIME, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_calibrations_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_calibrations"),
    )
    op.create_index("ix_calibrations_machine_kind_id", "calibrations", ["machine", "kind", "id"], unique=False)


def _forbid_changes() -> None:
    """What is written in these tables stays, whoever asks."""
    if op.get_bind().dialect.name == "sqlite":
        for table in APPEND_ONLY:
            for change in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only: {change} is refused'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION patron_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION patron_append_only()"
        )
