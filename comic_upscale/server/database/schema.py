"""The tables of the server.

Times are whole milliseconds since 1970 (UTC), by the database's own clock, so that several servers agree. Every
change of a table is a migration in ``migrations/versions/``; a test compares the two.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = sa.String(36)
Time = sa.BigInteger
Counter = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A number that the database counts up. SQLite does so only for its own INTEGER."""


class now_ms(GenericFunction[int]):  # noqa: N801 - named like a function of SQL
    """The current time of the database in milliseconds."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(now_ms, "sqlite")
def _now_in_sqlite(element: now_ms, compiler: Any, **options: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"


@compiles(now_ms, "postgresql")
def _now_in_postgresql(element: now_ms, compiler: Any, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


CLOCK_MS = 10_000
"""How far a time may be ahead of the farthest one that is ever set, before the clock must have been set back."""


def is_over(until: sa.ColumnElement[Any], longest_ms: float) -> sa.ColumnElement[bool]:
    """Return whether a time has come, such as the end of a lease.

    A time that is farther ahead than it is ever set counts, too: the clock was set back since. Whoever died before
    that would otherwise hold a job for as long as the clock was set back. Whoever lives sets a new time soon.

    Args:
        until: the time; NULL has not come.
        longest_ms: milliseconds from now for which it is set at most.
    """
    return sa.or_(until < now_ms(), until > now_ms() + int(longest_ms) + CLOCK_MS)


NOW = sa.select(now_ms())
"""Asks for the current time. Statements that every request needs are built once: that costs more than running them."""


def _id(name: str = "id") -> sa.Column[Any]:
    return sa.Column(name, Id, primary_key=True)


def _reference(
    name: str, target: str, *, ondelete: str | None = None, nullable: bool = True
) -> sa.Column[Any]:
    return sa.Column(name, Id, sa.ForeignKey(target, ondelete=ondelete), nullable=nullable)


def _flag(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


users = sa.Table(
    "users", metadata,
    _id(),
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("email", sa.String(320), unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password_hash", sa.Text),
    _flag("must_change_password"),
    _flag("disabled"),
    sa.Column("totp_secret", sa.Text),
    sa.Column("jobs_at_once", sa.Integer),
    sa.Column("bytes_per_day", sa.BigInteger),
    sa.Column("pages_per_day", sa.BigInteger),
    sa.Column("pixels_per_day", sa.BigInteger),
    sa.Column("created_at", Time, nullable=False),
)  # fmt: skip

sessions = sa.Table(
    "sessions", metadata,
    sa.Column("secret_hash", sa.String(64), primary_key=True),
    sa.Column("id", Id, nullable=False, unique=True),
    _reference("user_id", "users.id", ondelete="CASCADE", nullable=False),
    sa.Column("address", sa.String(64)),
    sa.Column("agent", sa.String(256)),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("last_seen_at", Time, nullable=False),
    sa.Column("expires_at", Time, nullable=False),
    sa.Index(None, "user_id"),
)  # fmt: skip

keys = sa.Table(
    "keys", metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    _reference("user_id", "users.id", ondelete="CASCADE", nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("secret_hash", sa.String(64), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("last_used_at", Time),
    sa.Column("expires_at", Time),
    sa.Column("revoked_at", Time),
    sa.Index(None, "user_id"),
)  # fmt: skip

uploads = sa.Table(
    "uploads", metadata,
    _id(),
    _reference("owner_id", "users.id", nullable=False),
    sa.Column("address", sa.String(64)),
    _number("size"),
    _number("files"),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("expires_at", Time, nullable=False),
    sa.Index(None, "owner_id", "created_at"),
    sa.Index(None, "expires_at"),
)  # fmt: skip

jobs = sa.Table(
    "jobs", metadata,
    _id(),
    _reference("owner_id", "users.id", nullable=False),
    _reference("upload_id", "uploads.id"),
    sa.Column("requeue_of", Id),
    sa.Column("lane", sa.String(16), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("params", sa.JSON, nullable=False),
    sa.Column("input", sa.Text),
    sa.Column("output", sa.Text),
    # The part of the input that is looked at; NULL for all of it.
    sa.Column("selection", sa.JSON(none_as_null=True)),
    sa.Column("title", sa.String(256), nullable=False, server_default=""),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("started_at", Time),
    sa.Column("finished_at", Time),
    sa.Column("expires_at", Time),
    sa.Column("not_before", Time, nullable=False, server_default="0"),
    sa.Column("lease_until", Time),
    _number("fence"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("worker_id", Id),
    _flag("cancel_requested"),
    _number("revision"),
    sa.Column("updated_at", Time, nullable=False),
    sa.Column("pages_total", sa.Integer),
    sa.Column("pages_done", sa.Integer, nullable=False, server_default="0"),
    sa.Column("pages_failed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.JSON),
    sa.Column("within", sa.JSON),
    sa.Column("model", sa.Text),
    sa.Column("device", sa.Text),
    sa.Column("seconds", sa.Float),
    _number("pixels"),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error", sa.Text),
    sa.Column("callback_url", sa.Text),
    sa.Column("email", sa.String(320)),
    sa.Index("ix_jobs_claim", "status", "priority", "created_at", "id"),
    # Lists, the latest first: of an owner or of all, with a status or without.
    sa.Index(None, "owner_id", "status", "created_at", "id"),
    sa.Index(None, "owner_id", "created_at", "id"),
    sa.Index(None, "status", "created_at", "id"),
    # The jobs that were completed last.
    sa.Index(None, "status", "updated_at"),
    sa.Index(None, "updated_at"),
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "expires_at"),
    # Deleting an upload looks for its jobs.
    sa.Index(None, "upload_id"),
)  # fmt: skip

spent = sa.Table(
    "spent", metadata,
    sa.Column("id", Counter, primary_key=True, autoincrement=True),
    _reference("owner_id", "users.id", nullable=False),
    sa.Column("created_at", Time, nullable=False),
    _number("bytes"),
    _number("pages"),
    _number("pixels"),
    sa.Column("finished_at", Time),
    sa.Column("status", sa.String(16)),
    sa.Column("seconds", sa.Float),
    _number("pages_done"),
    sa.Index(None, "owner_id", "created_at"),
    sa.Index(None, "finished_at"),
)  # fmt: skip
"""What deleted jobs and uploads took of the last 24 hours, one row each. An upload has ``bytes`` alone."""

files = sa.Table(
    "files", metadata,
    _id(),
    _reference("upload_id", "uploads.id", ondelete="CASCADE"),
    _reference("job_id", "jobs.id", ondelete="CASCADE"),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("storage_key", sa.String(256), nullable=False, unique=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("members", sa.JSON),
    sa.Column("created_at", Time, nullable=False),
    sa.Index(None, "upload_id", "position"),
    sa.Index(None, "job_id", "position"),
)  # fmt: skip

resumable = sa.Table(
    "resumable", metadata,
    _id(),
    _reference("owner_id", "users.id", nullable=False),
    sa.Column("address", sa.String(64)),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("fields", sa.JSON, nullable=False),
    _flag("is_held"),
    sa.Column("length", sa.BigInteger, nullable=False),
    _number("offset"),
    sa.Column("lock", sa.String(36)),
    _number("locked_until"),
    _reference("job_id", "jobs.id", ondelete="CASCADE"),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("expires_at", Time, nullable=False),
    sa.Index(None, "owner_id"),
    sa.Index(None, "expires_at"),
    # Deleting a job looks for what refers to it: here, and in the tables below.
    sa.Index(None, "job_id"),
)  # fmt: skip
"""Uploads that arrive in several requests. ``offset`` counts the bytes that are flushed to the storage."""

pieces = sa.Table(
    "pieces", metadata,
    _reference("resumable_id", "resumable.id", ondelete="CASCADE", nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("storage_key", sa.String(256), nullable=False, unique=True),
    sa.PrimaryKeyConstraint("resumable_id", "start"),
)  # fmt: skip
"""The stored bytes of a resumable upload, in order and without gaps."""

watches = sa.Table(
    "watches", metadata,
    _id(),
    _reference("owner_id", "users.id", nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("params", sa.JSON, nullable=False),
    sa.Column("settle", sa.Float, nullable=False),
    _flag("paused"),
    sa.Column("holder", Id),
    _number("lease_until"),
    sa.Column("looked_at", Time),
    sa.Column("pages", sa.Integer),
    sa.Column("problem", sa.Text),
    sa.Column("done", sa.String(64)),
    _flag("has_results"),
    sa.Column("job_id", Id),
    sa.Column("errors", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", Time, nullable=False),
)  # fmt: skip
"""Watched folders. The server with the lease looks at a folder. ``done`` is the digest of its files when the last job
began, ``job_id`` that job, and ``errors`` counts the jobs before it that failed and were tried again."""

job_log = sa.Table(
    "job_log", metadata,
    sa.Column("id", Counter, primary_key=True, autoincrement=True),
    _reference("job_id", "jobs.id", ondelete="CASCADE", nullable=False),
    sa.Column("at", Time, nullable=False),
    sa.Column("line", sa.Text, nullable=False),
    sa.Index(None, "job_id", "id"),
)  # fmt: skip

idempotency = sa.Table(
    "idempotency", metadata,
    sa.Column("owner", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("request_hash", sa.String(64), nullable=False),
    _reference("job_id", "jobs.id", ondelete="CASCADE"),
    sa.Column("created_at", Time, nullable=False),
    sa.Index(None, "created_at"),
    sa.Index(None, "job_id"),
)  # fmt: skip

workers = sa.Table(
    "workers", metadata,
    _id(),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("job_id", Id),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("devices", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("memory", sa.BigInteger),
    sa.Column("cores", sa.Float),
    # The server that starts it; NULL for a worker that was started by hand.
    sa.Column("home", sa.String(64)),
    sa.Column("started_at", Time, nullable=False),
    sa.Column("last_seen_at", Time, nullable=False),
    sa.Column("last_page_at", Time),
    sa.Column("ended_at", Time),
    sa.Column("drained_at", Time),
    sa.Index(None, "ended_at", "last_seen_at"),
    # Workers look for it several times a second.
    sa.Index(None, "drained_at"),
)  # fmt: skip

queue = sa.Table(
    "queue", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    _flag("paused"),
    _flag("maintenance"),
    _number("revision"),
)  # fmt: skip
"""One row. Claims lock it, so that on every database they take place one after another."""

outbox = sa.Table(
    "outbox", metadata,
    _id(),
    _reference("job_id", "jobs.id", ondelete="CASCADE"),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("not_before", Time, nullable=False, server_default="0"),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("done_at", Time),
    sa.Column("failed_at", Time),
    sa.Column("last_error", sa.Text),
    sa.Index(None, "done_at", "failed_at", "not_before"),
    sa.Index(None, "job_id"),
)  # fmt: skip

audit = sa.Table(
    "audit", metadata,
    sa.Column("id", Counter, primary_key=True, autoincrement=True),
    sa.Column("at", Time, nullable=False),
    sa.Column("actor_id", Id),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("address", sa.String(64)),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("object", sa.String(256)),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Index(None, "at"),
)  # fmt: skip

settings = sa.Table(
    "settings", metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
    sa.Column("updated_at", Time, nullable=False),
    sa.Column("updated_by", Id),
)  # fmt: skip

presets = sa.Table(
    "presets", metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("updated_at", Time, nullable=False),
)  # fmt: skip

models = sa.Table(
    "models", metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("storage_key", sa.String(256)),
    sa.Column("sha256", sa.String(64), nullable=False),
    _flag("is_default"),
    sa.Column("note", sa.Text),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("demoted_at", Time),
)  # fmt: skip
