"""Alembic's entry: migrates over the connection that upgrade.py hands in, inside its transaction."""

from __future__ import annotations

from alembic import context

from patron_core.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
