"""Uploads that arrive in several requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "resumable",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("owner_id", sa.String(length=36), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("is_held", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lock", sa.String(length=36), nullable=True),
        sa.Column("locked_until", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_resumable_owner_id")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_resumable_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resumable")),
    )
    op.create_index(op.f("ix_resumable_owner_id"), "resumable", ["owner_id"])
    op.create_index(op.f("ix_resumable_expires_at"), "resumable", ["expires_at"])
    op.create_table(
        "pieces",
        sa.Column("resumable_id", sa.String(length=36), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("storage_key", sa.String(length=256), nullable=False),
        sa.ForeignKeyConstraint(
            ["resumable_id"], ["resumable.id"], name=op.f("fk_pieces_resumable_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("resumable_id", "start", name=op.f("pk_pieces")),
        sa.UniqueConstraint("storage_key", name=op.f("uq_pieces_storage_key")),
    )
