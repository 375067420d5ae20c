"""Draining workers: who takes no new job, who may start again, and who may say so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.server import janitor, workers
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import audit
from comic_upscale.server.database.schema import workers as table
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.supervisor import Supervisor, WorkerCommand
from tests.server.conftest import client_of, make_key
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_queue import add


def register(database: Database, worker_id: str, home: str | None = None) -> None:
    database.write(lambda c: workers.register(c, worker_id, home))


def is_drained(database: Database, worker_id: str | None = None, home: str | None = None) -> bool:
    return database.read(lambda c: workers.is_drained(c, worker_id=worker_id, home=home))


def test_a_drained_worker_is_no_other_worker(database: Database) -> None:
    register(database, "by-hand")
    register(database, "other")
    assert database.write(lambda c: workers.drain(c, "by-hand"))
    assert is_drained(database, "by-hand")
    # Neither of them has a server that starts it.
    assert not is_drained(database, "other")
    assert not is_drained(database, "x", "some server")
    assert database.write(lambda c: workers.undrain(c, "by-hand"))
    assert not is_drained(database, "by-hand")
    assert not database.write(lambda c: workers.drain(c, "none"))


def test_the_worker_of_a_server_stays_drained_under_its_next_id(database: Database) -> None:
    for worker_id, home in (("first", "server"), ("second", "server"), ("far", "another")):
        register(database, worker_id, home)
    database.write(lambda c: workers.end(c, "first"))
    # The page may still show the worker before.
    database.write(lambda c: workers.drain(c, "first"))
    assert is_drained(database, "second", "server") and is_drained(database, home="server")
    assert not is_drained(database, "far", "another")
    listed = database.read(workers.list_workers)
    assert {row["id"]: row["drained"] for row in listed} == {"first": True, "second": True, "far": False}
    database.write(lambda c: workers.undrain(c, "second"))
    assert not is_drained(database, "second", "server")


def test_a_worker_that_is_gone_for_good_cannot_be_drained(database: Database) -> None:
    register(database, "by-hand")
    database.write(lambda c: workers.end(c, "by-hand"))
    with pytest.raises(workers.WorkerEndedError):
        database.write(lambda c: workers.drain(c, "by-hand"))


def test_a_server_remembers_for_long_that_its_worker_is_drained(database: Database) -> None:
    for worker_id in ("old", "drained"):
        register(database, worker_id, "server")
        database.write(lambda c, worker_id=worker_id: workers.end(c, worker_id))
    database.write(lambda c: c.execute(sa.update(table).values(ended_at=1)))
    database.write(lambda c: workers.drain(c, "drained"))
    database.write(janitor._delete_old_rows)
    assert [row["id"] for row in database.read(workers.list_workers)] == ["drained"]


def test_servers_of_one_database_have_names_of_their_own(tmp_path: Path) -> None:
    url = "postgresql://127.0.0.1/x"
    homes = {workers.home_of(ServerSettings(data=tmp_path / name, database=url)) for name in ("a", "b")}
    assert len(homes) == 2
    # The only server of an SQLite database may move, or get another host name as a container.
    first, second = (workers.home_of(ServerSettings(data=tmp_path / name)) for name in ("a", "b"))
    assert first == second


def test_a_server_does_not_start_a_drained_worker(services: Services) -> None:
    supervisor = Supervisor(services.settings, services.database, WorkerCommand([], {}))
    add(services.database)
    assert asyncio.run(supervisor._has_work())
    register(services.database, "w", workers.home_of(services.settings))
    services.database.write(lambda c: workers.end(c, "w"))
    services.database.write(lambda c: workers.drain(c, "w"))
    assert not asyncio.run(supervisor._has_work())
    # The health report says why jobs wait.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("comic_upscale.server.monitor.STUCK_SECONDS", 0.0)
        asyncio.run(services.monitor._look_at_queue())
        (problem,) = services.monitor.problems()
    assert problem.startswith("jobs wait, and the workers are drained")
    services.database.write(lambda c: workers.undrain(c, "w"))
    assert asyncio.run(supervisor._has_work())


@pytest.fixture
def boss(services: Services) -> Iterator[httpx.Client]:
    with client_of(services, make_key(services, "boss", "admin")) as client:
        yield client


def test_draining_by_the_interface_is_recorded(services: Services, boss: httpx.Client) -> None:
    register(services.database, "w", "server")
    services.database.write(
        lambda c: workers.seen(c, "w", job_id=None, models=["a"], memory=3 << 20, cores=1.5)
    )
    assert boss.post("/api/v1/admin/workers/w/drain").status_code == 204
    (shown,) = boss.get("/api/v1/admin/workers").json()["workers"]
    assert (shown["drained"], shown["is_own"], shown["memory"], shown["cores"]) == (True, True, 3 << 20, 1.5)
    assert shown["drained_at"].endswith("Z") and shown["models"] == ["a"]
    assert boss.post("/api/v1/admin/workers/w/undrain").status_code == 204
    assert boss.get("/api/v1/admin/workers").json()["workers"][0]["drained"] is False
    assert boss.post("/api/v1/admin/workers/none/drain").status_code == 404
    assert boss.post("/api/v1/admin/workers/w/explode").status_code == 400
    register(services.database, "gone")
    services.database.write(lambda c: workers.end(c, "gone"))
    refused = boss.post("/api/v1/admin/workers/gone/drain")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "ended")
    recorded = services.database.read(
        lambda c: c.execute(sa.select(audit.c.action, audit.c.object, audit.c.actor)).all()
    )
    assert [tuple(row) for row in recorded] == [
        ("worker.drain", "w", "boss"),
        ("worker.undrain", "w", "boss"),
    ]


def test_a_worker_is_drained_by_a_form_that_asks(services: Services) -> None:
    add_person(services, "boss", "admin")
    for worker_id, home in (("old", "server"), ("new", "server"), ("by-hand", None)):
        register(services.database, worker_id, home)
        services.database.write(
            lambda c, i=worker_id: workers.seen(c, i, job_id=None, memory=3_000_000, cores=1.5)
        )
    services.database.write(lambda c: workers.end(c, "old"))
    with pages_of(services) as browser:
        text = sign_in(browser, "boss").get("/admin/workers").text
        assert "3.0 MB, 1.5 cores" in text
        # The one before the running one stands for nothing any more.
        assert text.count('/drain" data-confirm=') == 2 and "/workers/old/drain" not in text
        token = {"csrf_token": csrf_of(browser.get("/admin/workers"))}
        done = browser.post("/admin/workers/new/drain", data=token)
        assert done.headers["location"] == "/admin/workers?notice=drained"
        text = browser.get("/admin/workers?notice=drained").text
        assert ">draining</span>" in text and "takes no new job" in text
        services.database.write(lambda c: workers.end(c, "new"))
        text = browser.get("/admin/workers").text
        assert ">drained</span>" in text and "/workers/new/undrain" in text
        done = browser.post("/admin/workers/new/undrain", data=token)
        assert done.headers["location"] == "/admin/workers?notice=undrained"
        assert ">drained</span>" not in browser.get("/admin/workers").text
