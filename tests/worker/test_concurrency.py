"""Several jobs at once in one worker, and what a job says when the disk of its worker cannot be written."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from comic_upscale.commands import environment
from comic_upscale.commands.worker import run_worker
from comic_upscale.engines.base import Batch, Upscaled
from comic_upscale.errors import DeviceError
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.run import run_job
from comic_upscale.server import queue, workers
from comic_upscale.server.services import Services
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.job import JobRunner
from comic_upscale.worker.run import LOOK_SECONDS, WorkerOptions, work
from tests.conftest import MakeJob, draw
from tests.fakes import NearestEngine
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.running import PATIENCE, wait_for
from tests.server.test_queue import job, taken


class Held(NearestEngine):
    """An engine whose batches wait."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def upscale(self, batch: Batch) -> Upscaled:
        assert self.go_on.wait(PATIENCE)
        return super().upscale(batch)


def upload(services: Services, page: Path) -> str:
    with client_of(services, make_key(services, "me")) as client:
        answer = client.post("/api/v1/uploads", files=[("file", (page.name, page.read_bytes()))])
        return str(answer.json()["job_id"])


def start(services: Services, engine: Held, stop: StopRequest, home: Path) -> threading.Thread:
    """Start a worker on a thread, with an engine."""
    options = WorkerOptions(
        worker_id="w1", defaults={"workers": 1},
        engines=EngineCache(lambda _job, _weights: [engine]),
    )  # fmt: skip
    worker = threading.Thread(target=work, args=(services.settings, options, stop), daemon=True)
    worker.start()
    return worker


def test_a_worker_runs_as_many_jobs_at_once_as_it_is_told(open_server: OpenServices, tmp_path: Path) -> None:
    services = open_server(worker_concurrency=2, jobs_per_user=10, worker_idle_timeout=0.1)
    page, engine, stop = draw(tmp_path / "page.png", 5, size=(40, 50)), Held(), StopRequest()
    ids = [upload(services, page) for _ in range(3)]
    worker = start(services, engine, stop, tmp_path)

    def statuses() -> list[str]:
        return [job(services.database, each)["status"] for each in ids]

    try:
        wait_for(lambda: statuses().count("running") == 2)
        # The third one waits for one of them, not for its user.
        assert statuses() == ["running", "running", "queued"]
        engine.go_on.set()
        wait_for(lambda: statuses() == ["completed"] * 3)
        # It ends by itself, with all of its lanes.
        worker.join(PATIENCE)
        assert not worker.is_alive()
    finally:
        engine.go_on.set()
        stop.request("the test is over")
        worker.join(PATIENCE)


def test_a_job_of_the_server_is_not_the_last_job_of_the_user(
    open_server: OpenServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "user"
    monkeypatch.setattr(environment, "state_folder", lambda: state)
    services = open_server(worker_idle_timeout=0.1)
    job_id = upload(services, draw(tmp_path / "page.png", 5, size=(40, 50)))
    run_worker(services.settings)
    assert job(services.database, job_id)["status"] == "completed"
    assert list(state.glob("*")) == []


def test_a_worker_does_not_take_its_own_job_again(open_server: OpenServices, tmp_path: Path) -> None:
    """After a machine has slept, all leases seem to have ended until the heartbeats renew them."""
    services = open_server(worker_concurrency=2, worker_idle_timeout=0.1)
    page, engine, stop = draw(tmp_path / "page.png", 5, size=(40, 50)), Held(), StopRequest()
    job_id = upload(services, page)
    worker = start(services, engine, stop, tmp_path)
    looks = 0

    def end_lease() -> bool:
        nonlocal looks
        looks += 1
        services.database.write(lambda connection: queue.end_leases(connection, "w1"))
        return looks > 3 * LOOK_SECONDS / 0.05

    try:
        wait_for(lambda: job(services.database, job_id)["status"] == "running")
        wait_for(end_lease)
        engine.go_on.set()
        wait_for(lambda: job(services.database, job_id)["status"] == "completed")
        assert job(services.database, job_id)["fence"] == 1
    finally:
        engine.go_on.set()
        stop.request("the test is over")
        worker.join(PATIENCE)


def test_a_drained_worker_finishes_its_job_and_ends(open_server: OpenServices, tmp_path: Path) -> None:
    services = open_server(jobs_per_user=10)
    page, engine, stop = draw(tmp_path / "page.png", 5, size=(40, 50)), Held(), StopRequest()
    ids = [upload(services, page)]
    worker = start(services, engine, stop, tmp_path)
    try:
        wait_for(lambda: job(services.database, ids[0])["status"] == "running")
        services.database.write(lambda connection: workers.drain(connection, "w1"))
        ids.append(upload(services, page))
        engine.go_on.set()
        worker.join(PATIENCE)
        assert not worker.is_alive() and not stop.requested
        # Nobody but this worker could take the second job.
        assert [job(services.database, each)["status"] for each in ids] == ["completed", "queued"]
        (row,) = services.database.read(workers.list_workers)
        assert row["ended_at"] is not None and row["drained"]
    finally:
        engine.go_on.set()
        stop.request("the test is over")
        worker.join(PATIENCE)


def test_a_worker_says_what_it_uses(open_server: OpenServices, tmp_path: Path) -> None:
    services, stop = open_server(), StopRequest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("comic_upscale.worker.run.SIGN_SECONDS", 0.05)
        worker = start(services, Held(), stop, tmp_path)
        try:
            (row,) = wait_for(
                lambda: [row for row in services.database.read(workers.list_workers) if row["memory"]]
            )
            assert row["memory"] > 1 << 20 and row["cores"] >= 0
        finally:
            stop.request("the test is over")
            worker.join(PATIENCE)


def test_an_old_worker_takes_no_job_of_a_new_server(
    open_server: OpenServices, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    services = open_server()
    page, engine, stop = draw(tmp_path / "page.png", 5, size=(40, 50)), Held(), StopRequest()
    ids = [upload(services, page) for _ in range(2)]
    worker = start(services, engine, stop, tmp_path)
    try:
        wait_for(lambda: job(services.database, ids[0])["status"] == "running")
        update = sa.text("UPDATE alembic_version SET version_num = '9999'")
        services.database.write(lambda connection: connection.execute(update))
        engine.go_on.set()
        # It finishes what it has begun, and ends.
        worker.join(PATIENCE)
        assert not worker.is_alive()
    finally:
        engine.go_on.set()
        stop.request("the test is over")
        worker.join(PATIENCE)
    assert [job(services.database, each)["status"] for each in ids] == ["completed", "queued"]
    assert "update this worker" in caplog.text


class Failing(NearestEngine):
    """An engine whose device fails."""

    def upscale(self, batch: Batch) -> Upscaled:
        raise DeviceError("the GPU fell off the bus")


@pytest.mark.skipif(os.name != "posix", reason="Unix sockets")
def test_a_device_that_fails_under_a_run_ends_the_worker_of_the_server(
    open_server: OpenServices, tmp_path: Path, make_job: MakeJob
) -> None:
    draw(tmp_path / "in" / "a.png", 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w"
        services = open_server(worker_socket=path, worker_idle_timeout=3600.0)
        stop = StopRequest()
        options = WorkerOptions(
            worker_id="w1", defaults={"workers": 1},
            engines=EngineCache(lambda _job, _weights: [Failing()]),
        )  # fmt: skip
        worker = threading.Thread(target=work, args=(services.settings, options, stop), daemon=True)
        worker.start()
        try:
            wait_for(path.exists)
            with pytest.raises(DeviceError):
                run_job(make_job(), worker=path, open_engines=lambda *_: [])
            # Its next job would fail on the same device.
            worker.join(PATIENCE)
            assert not worker.is_alive() and stop.requested
        finally:
            stop.request("the test is over")
            worker.join(PATIENCE)


def test_a_disk_that_cannot_be_written_is_named_and_the_job_waits(
    open_server: OpenServices, tmp_path: Path
) -> None:
    services = open_server()
    job_id = upload(services, draw(tmp_path / "page.png", 5, size=(40, 50)))
    # As on a disk that is full or read-only, no folder can be made there; this holds for root, too.
    (services.settings.data / "work").write_bytes(b"")
    runner = JobRunner(
        services.settings,
        {"workers": 1},
        services.database,
        services.files,
        StopRequest(),
    )
    runner.run(taken(services.database))
    found = job(services.database, job_id)
    assert (found["status"], found["error_code"]) == ("queued", "output")
    assert found["error"].startswith("the data folder of the worker cannot be written: ")
    assert str(tmp_path) not in found["error"]
