"""Which runs rest and are mirrored as they are: `mirrors.rested_at`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mirrors", sa.Column("rested_at", sa.Double(), nullable=True))
