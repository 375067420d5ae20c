"""Run by Alembic: migrates over the connection, and in the transaction, of the caller."""

from __future__ import annotations

from alembic import context

from comic_upscale.server.database.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes most columns only by copying the table.
    render_as_batch=True,
)
context.run_migrations()
