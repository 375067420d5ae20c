"""What deleted jobs and uploads took of the last 24 hours, and indexes for deleting a job or an upload."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and the indexes."""
    op.create_table(
        "spent",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("owner_id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pages", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pixels", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("pages_done", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_spent_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spent")),
    )
    op.create_index(op.f("ix_spent_owner_id_created_at"), "spent", ["owner_id", "created_at"])
    op.create_index(op.f("ix_spent_finished_at"), "spent", ["finished_at"])
    op.create_index(op.f("ix_jobs_upload_id"), "jobs", ["upload_id"])
    for table in ("outbox", "idempotency", "resumable"):
        op.create_index(op.f(f"ix_{table}_job_id"), table, ["job_id"])
