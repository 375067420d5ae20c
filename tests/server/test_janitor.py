"""The janitor: what has expired goes, what is in use stays, and what a crash left behind is found both ways."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from comic_upscale.server import queue
from comic_upscale.server.database.schema import files, jobs, spent, uploads
from comic_upscale.server.files import store_file
from comic_upscale.server.janitor import Cleaned, Janitor
from comic_upscale.server.services import Services
from tests.server.conftest import client_of, make_key
from tests.server.test_queue import RESULT, taken
from tests.server.test_uploads import left_over, send


@pytest.fixture
def janitor(services: Services) -> Janitor:
    return Janitor(services.database, services.files, services.settings.data / "work")


def expire(services: Services, table: sa.Table, **values: Any) -> None:
    services.database.write(lambda c: c.execute(sa.update(table).values(expires_at=1, **values)))


def test_expired_jobs_go_with_their_files(services: Services, janitor: Janitor) -> None:
    with client_of(services, make_key(services, "me")) as client:
        ids = [send(client, "a.png", "b.png").json()["job_id"] for _ in range(3)]
        held = [taken(services.database) for _ in range(2)]
        services.database.write(lambda c: queue.complete(c, held[0], RESULT))
        assert janitor.clean() == Cleaned(jobs=0, orphans=0, folders=0, missing=0)
        expire(services, jobs)
        assert janitor.clean().jobs == 1
        assert client.get(f"/api/v1/jobs/{ids[0]}").status_code == 404
        # The one that runs and the one that waits are not thrown away.
        assert len(client.get("/api/v1/jobs").json()["jobs"]) == 2
    assert len(left_over(services)) == 4


def test_uploads_without_a_job_go(services: Services, janitor: Janitor) -> None:
    with client_of(services, make_key(services, "me")) as client:
        send(client)
    services.database.write(lambda c: c.execute(sa.delete(jobs)))
    assert janitor.clean().jobs == 0
    expire(services, uploads)
    assert janitor.clean().jobs == 1
    assert left_over(services) == []


def test_what_expires_within_a_day_stays_counted(services: Services, janitor: Janitor) -> None:
    """Files without an account are kept for an hour, and the limits of 24 hours hold for them, too."""
    with client_of(services, make_key(services, "me")) as client:
        for _ in range(2):
            send(client)
        held = taken(services.database)
        services.database.write(lambda c: queue.complete(c, held, RESULT))
        services.database.write(lambda c: c.execute(sa.delete(jobs).where(jobs.c.status == "queued")))
    sent = sa.select(sa.func.sum(uploads.c.size))
    total = services.database.read(lambda c: c.scalar(sent))
    expire(services, jobs)
    expire(services, uploads)
    assert janitor.clean().jobs == 2
    figures = sa.select(sa.func.sum(spent.c.bytes), sa.func.sum(spent.c.pages))
    assert tuple(services.database.read(lambda c: c.execute(figures).one())) == (total, 1)


def test_what_a_crash_left_behind_is_found_both_ways(
    services: Services, janitor: Janitor, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"x")
    for key in ("uploads/old/0", "uploads/new/0"):
        with (tmp_path / "x").open("rb") as file:
            store_file(services.files, key, file)
    old = services.files.local_path("uploads/old/0")
    assert old is not None
    os.utime(old, (0, 0))
    with client_of(services, make_key(services, "me")) as client:
        send(client)
    (key,) = services.database.read(lambda c: c.scalars(sa.select(files.c.storage_key)).all())
    work = services.settings.data / "work"
    for name in ("gone", "unknown"):
        (work / name).mkdir(parents=True)
    assert janitor.clean() == Cleaned(jobs=0, orphans=1, folders=2, missing=0)
    # An upload that is in progress has no row yet.
    assert services.files.local_path("uploads/new/0").is_file()  # type: ignore[union-attr]
    services.files.delete(key)
    assert janitor.clean().missing == 1


def test_the_folder_of_a_job_that_goes_on_stays(services: Services, janitor: Janitor) -> None:
    with client_of(services, make_key(services, "me")) as client:
        job_id = send(client).json()["job_id"]
    (services.settings.data / "work" / job_id).mkdir(parents=True)
    assert janitor.clean().folders == 0
    services.database.write(lambda c: queue.request_cancel(c, job_id))
    assert janitor.clean().folders == 1
