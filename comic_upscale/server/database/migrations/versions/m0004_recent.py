"""An index for the jobs that were completed last, from which estimates are made."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    op.create_index(op.f("ix_jobs_status_updated_at"), "jobs", ["status", "updated_at"])
