"""What a moved deadline is proven with: `attempts.control_key`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("control_key", sa.Text(), nullable=True))
