"""Clocks that are set by an hour, forward or back: nothing is lost, held for long, or done by two for long."""

from __future__ import annotations

import ast
import asyncio
import os
import signal
import time
from contextlib import aclosing
from pathlib import Path

import pytest
import sqlalchemy as sa
from itsdangerous import TimestampSigner
from limits import RateLimitItemPerMinute

from comic_upscale.server import accounts, events, health, outbox, queue, resumable, watches, workers
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import now_ms
from comic_upscale.server.database.schema import outbox as outbox_table
from comic_upscale.server.database.schema import resumable as resumable_table
from comic_upscale.server.database.schema import watches as watches_table
from comic_upscale.server.events import Hub
from comic_upscale.server.ids import new_id
from comic_upscale.server.links import Link, LinkExpiredError, Links
from comic_upscale.server.rates import Rates
from comic_upscale.server.services import Services
from tests.conftest import REPOSITORY
from tests.server.clocks import Clock
from tests.server.conftest import client_of, make_key
from tests.server.pages import pages_of, sign_in
from tests.server.running import wait_for
from tests.server.test_access import add_person
from tests.server.test_queue import RESULT, add, change, claim, job, taken
from tests.server.test_uploads import send
from tests.worker.test_kills import start_light_worker

HOUR = 3600.0


@pytest.fixture
def clock(database: Database) -> Clock:
    return Clock(database)


def test_the_clock_of_the_tests_moves(database: Database, clock: Clock) -> None:
    def now() -> int:
        return database.read(lambda connection: connection.scalar(sa.select(now_ms()))) or 0

    before = now()
    clock.move(HOUR)
    assert 0 <= now() - before - HOUR * 1000 < 60_000
    clock.move(-2 * HOUR)
    assert 0 <= now() - before + HOUR * 1000 < 60_000


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_the_job_of_a_dead_worker_waits_for_no_clock(
    database: Database, clock: Clock, seconds: float
) -> None:
    job_id = add(database)
    dead = taken(database)
    clock.move(seconds)
    assert database.read(health.running_jobs) is False
    assert database.read(health.queue_figures)["stalled"] == 1
    assert database.read(lambda c: queue.has_work(c, jobs_per_user=1))
    held = taken(database, "w2", limit=1)
    assert (held.job_id, held.attempt) == (job_id, 2)
    with pytest.raises(queue.LostLeaseError):
        database.write(lambda connection: queue.complete(connection, dead, RESULT))
    database.write(lambda connection: queue.complete(connection, held, RESULT))
    assert job(database, job_id)["status"] == "completed"


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_living_worker_keeps_its_job(database: Database, clock: Clock, seconds: float) -> None:
    add(database)
    held = taken(database)
    clock.move(seconds)
    # Another lane of the same worker may look before the job's heartbeat has renewed the lease.
    database.write(lambda c: queue.claim(c, "w1", jobs_per_user=9, besides=[held.job_id]))
    assert not database.write(lambda connection: queue.heartbeat(connection, held, pages_done=1))
    assert claim(database, "w2") is None and database.read(health.running_jobs)


def test_a_job_that_waits_for_its_next_attempt_does_not_wait_an_hour(
    database: Database, clock: Clock
) -> None:
    job_id = add(database)
    held = taken(database)
    database.write(lambda connection: queue.retry(connection, held, "device", "the device failed"))
    assert claim(database) is None
    clock.move(-HOUR)
    assert taken(database).job_id == job_id


def test_a_worker_without_a_sign_of_life_is_not_online(database: Database, clock: Clock) -> None:
    database.write(lambda connection: workers.register(connection, "w1"))
    assert database.read(health.queue_figures)["workers_silent"] == 0
    clock.move(-HOUR)
    figures = database.read(health.queue_figures)
    assert (figures["workers_online"], figures["workers_silent"]) == (0, 1)
    database.write(lambda connection: workers.seen(connection, "w1", job_id=None))
    figures = database.read(health.queue_figures)
    assert (figures["workers_online"], figures["workers_silent"]) == (1, 0)


def test_locks_of_dead_servers_are_free(database: Database, clock: Clock) -> None:
    owner = database.write(lambda connection: accounts.ensure_user(connection, "me", "user"))
    upload, watch = new_id(), new_id()
    common = {"owner_id": owner, "created_at": now_ms()}
    rows = (
        sa.insert(resumable_table).values(
            id=upload, name="a.png", fields={}, length=9, expires_at=now_ms() + 86_400_000, **common
        ),
        sa.insert(watches_table).values(
            id=watch, input="/in", output="/out", params={}, settle=1.0, **common
        ),
    )
    database.write(lambda connection: [connection.execute(each) for each in rows])
    database.write(lambda connection: resumable.lock(connection, [upload], "dead"))
    assert database.write(lambda connection: watches.take(connection, "dead", [watch])) == {watch}
    assert database.write(lambda connection: watches.take(connection, "new", [watch])) == set()
    clock.move(-HOUR)
    database.write(lambda connection: resumable.lock(connection, [upload], "new"))
    assert database.write(lambda connection: watches.take(connection, "new", [watch])) == {watch}


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_message_is_sent_and_not_given_up(database: Database, clock: Clock, seconds: float) -> None:
    add(database, callback_url="https://example.org/", email=None)
    held = taken(database)
    database.write(lambda connection: queue.complete(connection, held, RESULT))
    clock.move(seconds)
    (message,) = database.write(lambda connection: outbox._take(connection, ()))
    database.write(lambda connection: outbox._record(connection, message, "no answer"))
    columns = sa.select(outbox_table.c.failed_at, outbox_table.c.attempts)
    assert database.read(lambda connection: connection.execute(columns).one()) == (None, 1)
    # Set right again, it is tried again: at once, or at most an hour later than without all this.
    clock.move(-seconds)
    clock.move(2 * HOUR if seconds > 0 else HOUR)
    assert database.write(lambda connection: outbox._take(connection, ()))


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_sessions_and_keys_stay_valid(services: Services, seconds: float) -> None:
    clock = Clock(services.database)
    add_person(services, "ann")
    with pages_of(services) as browser, client_of(services, make_key(services, "me")) as client:
        sign_in(browser, "ann")
        job_id = send(client).json()["job_id"]
        clock.move(seconds)
        services.known_keys.forget()
        assert browser.get("/jobs").status_code == 200
        assert client.get(f"/api/v1/jobs/{job_id}").json()["status"] == "queued"
        assert send(client).status_code == 202


def test_a_viewer_misses_no_change(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.01)
    job_id = add(database)

    async def watch() -> None:
        hub = Hub(database)
        async with asyncio.timeout(60), aclosing(hub.follow(job_id, None)) as states:
            assert (await anext(states))["revision"] == 0
            for revision, seconds in enumerate((-HOUR, HOUR, HOUR, -HOUR), 1):
                await asyncio.to_thread(clock.move, seconds)
                await asyncio.to_thread(change, database, job_id, revision=revision, updated_at=now_ms())
                assert (await anext(states))["revision"] == revision
        hub.close()

    asyncio.run(watch())


def test_signed_links_survive_a_server_whose_clock_was_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    links, link = Links(["a long secret of the server"]), Link("file", "some-file")

    def sign(ago: float, purpose: str = "file") -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TimestampSigner, "get_timestamp", lambda _self: int(time.time() - ago))
            return links.sign(Link(purpose, "some-file"))  # type: ignore[arg-type]

    assert links.verify("file", sign(-HOUR)) == link
    # Of another server, whose clock is a little ahead.
    assert links.verify("file", sign(-2)) == link
    assert links.verify("share", sign(HOUR, "share")).object_id == "some-file"
    with pytest.raises(LinkExpiredError):
        links.verify("file", sign(HOUR))


def test_a_limit_of_requests_does_not_last_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, limit = Rates(), RateLimitItemPerMinute(2)

    async def ask() -> tuple[bool, int]:
        allowed = await counted.hit(limit, "me")
        wait, _ = await counted.wait(limit, "me")
        return allowed, wait

    assert [asyncio.run(ask())[0] for _ in range(3)] == [True, True, False]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - HOUR)
    assert asyncio.run(ask())[1] <= 60
    monkeypatch.setattr(time, "time", lambda: real() + HOUR)
    assert asyncio.run(ask())[0] is False


def test_a_worker_asks_no_clock_of_its_own() -> None:
    """Its machine may have another time than the database."""
    asked = []
    for path in sorted((REPOSITORY / "comic_upscale" / "worker").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("time", "now", "utcnow", "today"):
                owner = ast.unparse(node.value)
                if owner in ("time", "datetime", "date", "datetime.datetime"):
                    asked.append(f"{path.name}:{node.lineno}")
    assert asked == []


@pytest.mark.skipif(os.name != "posix", reason="stops a process by a signal")
def test_a_stopped_worker_is_reported(services: Services, tmp_path: Path) -> None:
    def reasons() -> list[str]:
        with client_of(services) as client:
            return list(client.get("/api/v1/health").json()["reasons"])

    worker = start_light_worker(services, tmp_path)
    try:
        wait_for(lambda: services.database.read(health.online_workers))
        assert reasons() == []
        worker.send_signal(signal.SIGSTOP)
        clock = Clock(services.database)
        # No more than the promise of the health report, from its last sign of life on.
        clock.move(10)
        wait_for(lambda: reasons() == ["a worker gives no sign of life"])
        clock.move(-10)
        worker.send_signal(signal.SIGCONT)
        wait_for(lambda: reasons() == [])
    finally:
        worker.kill()
        worker.wait()
