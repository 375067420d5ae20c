"""The heartbeat of a job and the signs of life: an outage is not hammered, and no error ends them in silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.execution.events import JobStarted, Progress
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.records import PageProgress
from comic_upscale.server import health
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import job_log, jobs
from comic_upscale.server.jobs import job_json
from comic_upscale.server.services import Services
from comic_upscale.worker import beat, run
from comic_upscale.worker.beat import LOST, Heartbeat
from comic_upscale.worker.engines import EngineCache
from tests.conftest import draw
from tests.fakes import NearestEngine
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.running import PATIENCE, wait_for
from tests.server.test_queue import add, taken
from tests.server.test_uploads import send


class Counted:
    """A database that counts how often something is written."""

    def __init__(self, database: Database) -> None:
        self.database, self.times = database, 0

    def write(self, work: Callable[[Connection], Any]) -> Any:
        self.times += 1
        return self.database.write(work)


def progress(done: int) -> Progress:
    return Progress(
        total=9, done=done, failed=0, skipped=0, pending=9 - done, pages_per_second=None, eta_seconds=None,
        in_hand=None, bottleneck=None, busy={},
    )  # fmt: skip


def started(done: int) -> JobStarted:
    return JobStarted(
        input="", output="", ledger="", total=9, todo=9 - done, done=done, failed=0, skipped=0, scale=2.0, model="m",
        native_scale=4, device="cpu", precision="fp32", batch="1", workers=1,
    )  # fmt: skip


def test_an_outage_is_not_hammered(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat, "_LOOK_SECONDS", 0.005)
    add(services.database)
    held = taken(services.database)
    database = Counted(services.database)
    # The table is away, which is as good as an outage, and comes back by itself.
    services.database.write(lambda c: c.exec_driver_sql("ALTER TABLE jobs RENAME TO away"))
    with Heartbeat(database, held, StopRequest(), None) as heart:  # type: ignore[arg-type]
        heart.take(progress(1))
        wait_for(lambda: database.times >= 2)
        began, first = time.monotonic(), database.times
        time.sleep(0.5)
        # One each second, however slow this machine is.
        assert database.times - first <= (time.monotonic() - began) / beat.STORE_SECONDS + 1
        services.database.write(lambda c: c.exec_driver_sql("ALTER TABLE away RENAME TO jobs"))
        wait_for(lambda: services.database.read(lambda c: c.scalar(sa.select(jobs.c.pages_done))) == 1)
        assert not heart.stop.requested


def test_the_first_progress_is_stored_at_once(services: Services) -> None:
    add(services.database, attempts=2)
    held = taken(services.database)
    with Heartbeat(services.database, held, StopRequest(), None) as heart:
        heart.take(progress(1))
        wait_for(lambda: services.database.read(lambda c: c.scalar(sa.select(jobs.c.attempts))) == 1)
        assert not heart.stop.requested


def test_what_is_done_of_a_page_that_takes_minutes_moves_the_progress(services: Services) -> None:
    add(services.database)
    held = taken(services.database)
    half = PageProgress(source="cover.png", unit="tile", done=1, total=2)

    def shown() -> dict[str, Any]:
        return services.database.read(
            lambda c: job_json(c, dict(c.execute(sa.select(jobs)).mappings().one()))
        )

    assert shown()["in_progress"] == []
    with Heartbeat(services.database, held, StopRequest(), None) as heart:
        heart.take(replace(progress(2), within=(half,)))
        wait_for(lambda: shown()["progress"] == round(2.5 / 9 * 100, 1))
        assert shown()["in_progress"] == [asdict(half)]
    # A worker that died leaves it. The next one begins the page again.
    services.database.write(lambda c: c.execute(sa.update(jobs).values(lease_until=0)))
    taken(services.database)
    assert (shown()["in_progress"], shown()["progress"]) == ([], round(2 / 9 * 100, 1))


def test_a_page_is_news_also_after_the_end_of_its_job(services: Services) -> None:
    add(services.database)
    page_done = threading.Event()
    with Heartbeat(services.database, taken(services.database), StopRequest(), None, page_done) as heart:
        # Four pages of an earlier attempt are none.
        heart.take(started(done=4))
        heart.take(progress(4))
        assert not page_done.is_set()
        heart.take(progress(5))
    assert page_done.is_set()


def test_the_last_page_of_a_worker_is_known_if_no_sign_of_life_met_its_job(
    open_server: OpenServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SIGN_SECONDS", PATIENCE)
    services = open_server(worker_idle_timeout=0.001)
    with client_of(services, make_key(services, "ann")) as client:
        page = draw(tmp_path / "page.png", 3, size=(40, 60)).read_bytes()
        assert send(client, content=page, factor="2").status_code == 202
    engines = EngineCache(lambda *_: [NearestEngine()])
    defaults = {"workers": 1, "weights_cache": tmp_path / "cache"}
    options = run.WorkerOptions(worker_id="w", defaults=defaults, engines=engines)
    run.work(services.settings, options, StopRequest())
    figures = services.database.read(health.queue_figures)
    assert figures["last_page_done_seconds"] is not None


def test_a_beat_that_meets_the_end_of_the_job_loses_no_line(services: Services) -> None:
    add(services.database)
    held = taken(services.database)
    with Heartbeat(services.database, held, StopRequest(), None) as heart:
        # What ends a job takes the lease from its worker, before the last beat.
        services.database.write(lambda c: c.execute(sa.update(jobs).values(status="completed")))
        heart.say("a last word")
        heart.take(progress(1))
        wait_for(lambda: heart.stop.requested)
    assert heart.stop.kind == LOST
    lines = services.database.read(lambda c: c.scalars(sa.select(job_log.c.line)).all())
    assert "a last word" in lines


def test_an_error_of_any_kind_stops_the_job(services: Services) -> None:
    """With a heartbeat that ended in silence, two workers would do the job."""
    add(services.database)
    held = taken(services.database)
    with Heartbeat(services.database, held, StopRequest(), None) as heart:
        heart.note(no_such_column=1)
        wait_for(lambda: heart.stop.requested, seconds=PATIENCE / 4)
    assert heart.stop.kind == LOST


def test_a_sign_of_life_that_fails_is_not_the_last(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SIGN_SECONDS", 0.05)

    class FailsOnce(EngineCache):
        asked = 0

        @property
        def models(self) -> list[str]:
            self.asked += 1
            if self.asked == 1:
                raise RuntimeError("something new")
            return super().models

    engines, stop = FailsOnce(), StopRequest()
    options = run.WorkerOptions(worker_id="w", defaults={}, engines=engines)
    working = threading.Thread(target=run.work, args=(services.settings, options, stop))
    working.start()
    try:
        wait_for(lambda: engines.asked > 1, seconds=PATIENCE / 4)
    finally:
        stop.request("the test ends")
        working.join(PATIENCE)
