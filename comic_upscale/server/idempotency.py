"""Idempotency keys: a request that is sent twice makes one job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.server import jobs
from comic_upscale.server.accounts import Account
from comic_upscale.server.database.schema import idempotency, now_ms
from comic_upscale.server.database.schema import jobs as jobs_table
from comic_upscale.server.queue import position
from comic_upscale.server.quotas import check_quotas

KEEP_MS = 86_400_000


class KeyReusedError(ComicUpscaleError):
    """The same key came with another request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to an accepted upload."""

    body: dict[str, Any]
    """``estimated_seconds`` is None here: an estimate costs too much for a transaction that others wait for."""
    is_repeated: bool
    """Whether an earlier request with the same key made the job."""


def create_once(
    connection: Connection, account: Account, key: str | None, request_hash: str, new: jobs.NewJob
) -> Answer:
    """Create a job, unless the account created one with this key in the last 24 hours.

    Args:
        connection: in a transaction that writes.
        account: who asks.
        key: the ``Idempotency-Key``; without one, a job is created each time.
        request_hash: of everything that the request asks for.
        new: the job.

    Raises:
        KeyReusedError: the key came with another request.
        QuotaError: the user has sent as much as allowed.
    """
    earlier = find_job(connection, account, key, request_hash)
    if earlier is not None:
        return Answer(accepted(connection, earlier), is_repeated=True)
    check_quotas(connection, account, new.received.size)
    row = jobs.create_job(connection, account, new)
    remember(connection, account, key, request_hash, row["id"])
    return Answer(accepted(connection, row), is_repeated=False)


def find_job(
    connection: Connection, account: Account, key: str | None, request_hash: str
) -> Mapping[str, Any] | None:
    """Return the row of the job that the account created with a key in the last 24 hours; None if there is none.

    Arguments and errors as for `create_once`.
    """
    if key is None:
        return None
    owner = _owner(account)
    old = sa.delete(idempotency).where(
        idempotency.c.owner == owner,
        idempotency.c.key == key,
        idempotency.c.created_at < now_ms() - KEEP_MS,
    )
    connection.execute(old)
    found = (
        connection.execute(
            sa.select(idempotency.c.request_hash, jobs_table)
            .join(jobs_table, jobs_table.c.id == idempotency.c.job_id)
            .where(idempotency.c.owner == owner, idempotency.c.key == key)
        )
        .mappings()
        .first()
    )
    if found is not None and found["request_hash"] != request_hash:
        raise KeyReusedError("this Idempotency-Key was used for another request: choose a new one")
    return None if found is None else dict(found)


def remember(
    connection: Connection, account: Account, key: str | None, request_hash: str, job_id: str
) -> None:
    """Record which job a request with a key made; arguments as for `create_once`."""
    if key is not None:
        connection.execute(
            sa.insert(idempotency).values(
                owner=_owner(account), key=key, request_hash=request_hash, job_id=job_id, created_at=now_ms()
            )
        )


def _owner(account: Account) -> str:
    # Without accounts, keys of different people must not meet.
    return f"{account.user_id}:{account.address}"[:64] if account.is_anonymous else account.user_id


def accepted(connection: Connection, row: Any) -> dict[str, Any]:
    """Return the answer to an upload that was accepted, from the row of its job."""
    return {
        "job_id": row["id"],
        "upload_id": row["upload_id"],
        "status": row["status"],
        "created_at": jobs.iso(row["created_at"]),
        "estimated_seconds": None,
        "queue_position": position(connection, row),
    }
