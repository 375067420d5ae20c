"""Quotas: how much a user may send in 24 hours, and how much of it is used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.server.accounts import Account
from comic_upscale.server.database.schema import jobs, now_ms, spent, uploads, users
from comic_upscale.server.spent import DAY_MS

_LIMITS = sa.select(
    users.c.bytes_per_day,
    users.c.pages_per_day,
    users.c.pixels_per_day,
    (now_ms() - DAY_MS).label("day_ago"),
).where(users.c.id == sa.bindparam("user_id"))

Kind: TypeAlias = Literal["bytes", "pages", "pixels"]
_COUNTED: dict[Kind, tuple[sa.Table, sa.Column[Any]]] = {
    "bytes": (uploads, uploads.c.size),
    "pages": (jobs, jobs.c.pages_total),
    "pixels": (jobs, jobs.c.pixels),
}


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit of a user for 24 hours, and how much of it is used."""

    kind: Kind
    most: int
    used: int
    seconds: int | None
    """Until something of it is free again; None while something is free, and if it is 0 and never will be."""

    @property
    def is_used_up(self) -> bool:
        """Whether an upload would be refused."""
        return self.used >= self.most


class QuotaError(ComicUpscaleError):
    """A user has sent as much as allowed.

    Args:
        message: what the limit is, and when to try again.
        seconds: until then; None if that time never comes.
    """

    def __init__(self, message: str, seconds: int | None) -> None:
        super().__init__(message)
        self.seconds = seconds


def quotas_of(connection: Connection, user_id: str) -> list[Quota]:
    """Return the limits of a user; those that are not set are left out."""
    limits = connection.execute(_LIMITS, {"user_id": user_id}).one()
    given: dict[Kind, int | None] = {
        "bytes": limits.bytes_per_day, "pages": limits.pages_per_day, "pixels": limits.pixels_per_day,
    }  # fmt: skip
    return [
        _quota(connection, user_id, kind, most, limits.day_ago)
        for kind, most in given.items()
        if most is not None
    ]


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
    for quota in quotas_of(connection, account.user_id):
        may = f"you may {_allowed(quota)} in 24 hours"
        if quota.kind == "bytes" and size > quota.most:
            raise QuotaError(f"{may}, and this has {size:,}: send less", None)
        if quota.kind == "bytes" and quota.used + size > quota.most:
            seconds = _seconds_until(connection, account.user_id, quota.kind, quota.most - size)
        elif quota.kind != "bytes" and quota.is_used_up:
            seconds = quota.seconds
        else:
            continue
        when = "ask an administrator for more" if seconds is None else f"try again in {_wait_text(seconds)}"
        raise QuotaError(f"{may}, and {quota.used:,} are used: {when}", seconds)


def _quota(connection: Connection, user_id: str, kind: Kind, most: int, day_ago: int) -> Quota:
    counted = _counted(user_id, kind, day_ago)
    total = sa.select(sa.func.coalesce(sa.func.sum(counted.c.amount), 0))
    used = int(connection.scalar(total) or 0)
    seconds = _seconds_until(connection, user_id, kind, most - 1) if used >= most else None
    return Quota(kind, most, used, seconds)


def _counted(user_id: str, kind: Kind, day_ago: int) -> sa.Subquery:
    """Return what counts, with its time: of the jobs and uploads of a user, and of those that were deleted."""
    kept, amount = _COUNTED[kind]
    parts = [
        sa.select(table.c.created_at, column.label("amount")).where(
            table.c.owner_id == user_id, table.c.created_at > day_ago
        )
        for table, column in ((kept, amount), (spent, spent.c[kind]))
    ]
    return sa.union_all(*parts).subquery()


def _seconds_until(connection: Connection, user_id: str, kind: Kind, most: int) -> int | None:
    """Return the seconds until no more than some amount counts; None if that time never comes."""
    now = connection.scalar(sa.select(now_ms())) or 0
    counted = _counted(user_id, kind, now - DAY_MS)
    newest_first = (
        sa.select(counted.c.created_at, counted.c.amount)
        .where(counted.c.amount > 0)
        .order_by(counted.c.created_at.desc())
    )
    exceeding = _first_exceeding(connection.execute(newest_first), most)
    # All of it must count no more before something is free: the newest ones may stay.
    return None if exceeding is None else max((exceeding + DAY_MS - now + 999) // 1000, 1)


def _first_exceeding(rows: Iterable[Any], most: int) -> int | None:
    """Return the time of the first row with which the sum of the amounts is too large."""
    total = 0
    for created_at, amount in rows:
        total += amount
        if total > most:
            return int(created_at)
    return None


def _allowed(quota: Quota) -> str:
    amount = f"{quota.most:,} {quota.kind if quota.most != 1 else quota.kind.removesuffix('s')}"
    return f"have {amount} made" if quota.kind == "pixels" else f"send {amount}"


def _wait_text(seconds: int) -> str:
    minutes = -(-seconds // 60)
    hours, rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {rest} min"
    return f"{rest} minute{'s' if rest != 1 else ''}"
