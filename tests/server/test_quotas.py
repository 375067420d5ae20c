"""Limits of a user for 24 hours: how much is used, and when something is free again."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.accounts import ensure_user
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs, now_ms, spent, uploads, users
from comic_upscale.server.jobs import delete_job
from comic_upscale.server.quotas import Quota, quotas_of
from comic_upscale.server.search import figures_of_day
from comic_upscale.server.spent import DAY_MS, forget_old
from comic_upscale.server.words import as_sentence

HOUR = 3_600_000


def quotas_with(database: Database, hours_ago: dict[int, int], **limits: int) -> list[Quota]:
    """The quotas of a user who sent pages, as bytes too, some hours ago."""

    def write(connection: Connection) -> list[Quota]:
        user_id = ensure_user(connection, "ann", "user")
        connection.execute(sa.update(users).where(users.c.id == user_id).values(**limits))
        now = connection.scalar(sa.select(now_ms())) or 0
        for hours, count in hours_ago.items():
            common = {"owner_id": user_id, "created_at": now - hours * HOUR}
            connection.execute(
                sa.insert(uploads).values(
                    id=f"u{hours}", size=count, files=1, expires_at=now + HOUR, **common
                )
            )
            connection.execute(
                sa.insert(jobs).values(
                    id=f"j{hours}", upload_id=f"u{hours}", title="", status="completed", lane="batch", params={},
                    pages_total=count, updated_at=now, **common,
                )
            )  # fmt: skip
        return quotas_of(connection, user_id)

    return database.write(write)


@pytest.mark.parametrize(
    ("hours_ago", "most", "used", "hours"),
    [
        ({}, 10, 0, None),
        ({30: 99, 3: 9}, 10, 9, None),
        # The oldest one counts no more in three hours, which is enough.
        ({21: 6, 5: 4}, 10, 10, 3),
        # Without the oldest one it would still be all.
        ({21: 6, 5: 4, 1: 10}, 10, 20, 23),
        ({21: 6, 5: 9, 1: 1}, 10, 16, 19),
        ({}, 0, 0, None),
    ],
)
def test_something_is_free_again_when_enough_is_a_day_old(
    database: Database, hours_ago: dict[int, int], most: int, used: int, hours: int | None
) -> None:
    for quota in quotas_with(database, hours_ago, pages_per_day=most, bytes_per_day=most):
        assert (quota.most, quota.used, quota.is_used_up) == (most, used, used >= most)
        if hours is None:
            assert quota.seconds is None
        else:
            # The clock of the database goes on.
            assert quota.seconds is not None and hours * 3600 - 600 < quota.seconds <= hours * 3600


def test_deleting_jobs_gives_nothing_back(database: Database) -> None:
    limits = {"pages_per_day": 5, "bytes_per_day": 5, "pixels_per_day": 5}
    before = quotas_with(database, {3: 4, 21: 6, 30: 9}, **limits)

    def settle(connection: Connection) -> None:
        connection.execute(sa.update(jobs).values(finished_at=now_ms(), pages_done=2, seconds=3.0, pixels=7))

    def look(connection: Connection) -> tuple[list[tuple[object, ...]], dict[str, object]]:
        user_id = connection.scalar(sa.select(users.c.id)) or ""
        used = [
            (quota.kind, quota.used, quota.seconds is not None) for quota in quotas_of(connection, user_id)
        ]
        return used, figures_of_day(connection)

    def delete(connection: Connection) -> None:
        for job_id in connection.scalars(sa.select(jobs.c.id)).all():
            assert delete_job(connection, job_id) is not None

    database.write(settle)
    kept = database.read(look)
    assert before[0].used == 10 and kept[0] == [
        ("bytes", 10, True),
        ("pages", 10, True),
        ("pixels", 14, True),
    ]
    assert (kept[1]["completed"], kept[1]["pages"], kept[1]["worked"]) == (3, 6, 9.0)
    database.write(delete)
    assert database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(uploads))) == 0
    assert database.read(look) == kept
    # A day later, nothing of it is left.
    later = sa.update(spent).values(
        created_at=spent.c.created_at - DAY_MS, finished_at=spent.c.finished_at - DAY_MS
    )
    database.write(lambda c: c.execute(later))
    assert [used for _, used, _ in database.read(look)[0]] == [0, 0, 0]
    database.write(forget_old)
    assert database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(spent))) == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("you may send 3 pages: try later", "You may send 3 pages: try later."),
        ("book.cbz cannot be read", "book.cbz cannot be read."),
        ("There is no such job.", "There is no such job."),
        ("comic-fast is withdrawn", "comic-fast is withdrawn."),
        ("is its drive there?", "Is its drive there?"),
        ("", ""),
    ],
)
def test_an_error_becomes_a_sentence(text: str, sentence: str) -> None:
    assert as_sentence(text) == sentence
