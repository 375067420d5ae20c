"""Indexes for lists of jobs with a status, which may be rare among a million jobs."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the indexes, and drop the one that they replace."""
    op.create_index(op.f("ix_jobs_status_created_at_id"), "jobs", ["status", "created_at", "id"])
    op.create_index(
        op.f("ix_jobs_owner_id_status_created_at_id"), "jobs", ["owner_id", "status", "created_at", "id"]
    )
    op.create_index(op.f("ix_jobs_owner_id_created_at_id"), "jobs", ["owner_id", "created_at", "id"])
    op.drop_index(op.f("ix_jobs_owner_id_status"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_owner_id_created_at"), table_name="jobs")
