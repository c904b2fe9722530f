"""How far the books were checked, and the balances up to there: `ledger_checks`, `balances`, `run_sums`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledger_checks",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("transfer_id", sa.BigInteger(), nullable=False),
        sa.Column("problems", sa.JSON(), nullable=False),
        sa.CheckConstraint("number = 1", name="ck_ledger_checks_one"),
        sa.PrimaryKeyConstraint("number", name="pk_ledger_checks"),
    )
    op.create_table(
        "balances",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("book", sa.Text(), nullable=False),
        sa.Column("usd_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account", name="pk_balances"),
    )
    op.create_index("ix_balances_project_book", "balances", ["project", "book", "usd_micros"])
    op.create_table(
        "run_sums",
        sa.Column("run_id", sa.String(80), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("usd_micros", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_sums_run_id_runs"),
        sa.PrimaryKeyConstraint("run_id", "kind", name="pk_run_sums"),
    )
    op.execute("INSERT INTO ledger_checks (number, transfer_id, problems) VALUES (1, 0, '[]')")
