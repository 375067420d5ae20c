"""Draining workers, what they use, and notes on models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("workers", sa.Column("memory", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("cores", sa.Float(), nullable=True))
    op.add_column("workers", sa.Column("home", sa.String(length=64), nullable=True))
    op.add_column("workers", sa.Column("drained_at", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_workers_drained_at"), "workers", ["drained_at"])
    op.add_column("models", sa.Column("note", sa.Text(), nullable=True))
