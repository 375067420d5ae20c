"""Quotas: how much a user may send in 24 hours."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.server.accounts import Account
from comic_upscale.server.database.schema import jobs, now_ms, uploads, users

_DAY_MS = 86_400_000
_LIMITS = sa.select(
    users.c.bytes_per_day,
    users.c.pages_per_day,
    users.c.pixels_per_day,
    (now_ms() - _DAY_MS).label("day_ago"),
).where(users.c.id == sa.bindparam("user_id"))


class QuotaError(ComicUpscaleError):
    """A user has sent as much as allowed."""


def check_quotas(connection: Connection, account: Account, size: int) -> None:
    """Refuse an upload that exceeds a quota of its user, in the transaction that would store it.

    Pages are counted when a worker has found them, and pixels when it has written them, so the upload that exceeds
    their number is still taken.

    Args:
        connection: in a transaction that writes, so that uploads at the same time are counted.
        account: who uploads.
        size: bytes of the upload.

    Raises:
        QuotaError: the upload is refused.
    """
    limits = connection.execute(_LIMITS, {"user_id": account.user_id}).one()
    if limits.bytes_per_day is not None:
        sent = sa.select(sa.func.coalesce(sa.func.sum(uploads.c.size), 0)).where(
            uploads.c.owner_id == account.user_id, uploads.c.created_at > limits.day_ago
        )
        if (connection.scalar(sent) or 0) + size > limits.bytes_per_day:
            raise QuotaError(f"you may send {limits.bytes_per_day:,} bytes in 24 hours: try again later")
    for column, most, what in (
        (jobs.c.pages_total, limits.pages_per_day, "send {:,} pages"),
        (jobs.c.pixels, limits.pixels_per_day, "have {:,} pixels made"),
    ):
        if most is None:
            continue
        used = sa.select(sa.func.coalesce(sa.func.sum(column), 0)).where(
            jobs.c.owner_id == account.user_id, jobs.c.created_at > limits.day_ago
        )
        if (connection.scalar(used) or 0) >= most:
            raise QuotaError(f"you may {what.format(most)} in 24 hours: try again later")
