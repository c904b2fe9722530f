"""Since when a mirror is late, and why: `mirrors.synced_at`, `mirrors.error`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mirrors", sa.Column("synced_at", sa.Double(), nullable=True))
    op.add_column("mirrors", sa.Column("error", sa.Text(), nullable=True))
