"""Jobs over folders of the server, page streaming, quotas in pixels, and the log of each job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table."""
    op.add_column("jobs", sa.Column("output", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("pixels", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("files", sa.Column("members", sa.JSON(), nullable=True))
    op.add_column("users", sa.Column("pixels_per_day", sa.BigInteger(), nullable=True))
    op.create_table(
        "job_log",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_log_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_log")),
    )
    op.create_index(op.f("ix_job_log_job_id_id"), "job_log", ["job_id", "id"], unique=False)
