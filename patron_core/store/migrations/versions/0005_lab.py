"""Who this lab is: a random id, and which checkouts can read the database. One row."""

from __future__ import annotations

import secrets
import time

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    lab = op.create_table(
        "lab",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("readable_from", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.CheckConstraint("number = 1", name="ck_lab_one"),
        sa.PrimaryKeyConstraint("number", name="pk_lab"),
    )
    row = {"number": 1, "id": secrets.token_hex(4), "readable_from": "0001", "created_at": time.time()}
    op.bulk_insert(lab, [row])
