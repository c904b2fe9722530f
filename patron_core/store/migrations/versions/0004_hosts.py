"""Whose a local run is: `hosts`, `runs.host_id`; and what is to be stopped when such a machine comes back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TO_BE_STOPPED = "reason = 'written_off' AND stop_cause IS NULL"


def upgrade() -> None:
    op.create_table(
        "hosts",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("home", sa.Text(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("last_heard_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hosts"),
    )
    op.add_column("runs", sa.Column("host_id", sa.String(length=80), nullable=True))
    op.create_index(
        "ix_attempts_written_off",
        "attempts",
        ["run_id"],
        sqlite_where=sa.text(TO_BE_STOPPED),
        postgresql_where=sa.text(TO_BE_STOPPED),
    )
