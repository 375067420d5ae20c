"""Several jobs at once in one worker, and what a job says when the disk of its worker cannot be written."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest

from comic_upscale.engines.base import Batch, Upscaled
from comic_upscale.errors import DeviceError
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.run import run_job
from comic_upscale.server.services import Services
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.job import JobRunner
from comic_upscale.worker.run import WorkerOptions, work
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


def test_a_worker_runs_as_many_jobs_at_once_as_it_is_told(open_server: OpenServices, tmp_path: Path) -> None:
    services = open_server(worker_concurrency=2, jobs_per_user=10, worker_idle_timeout=0.1)
    page, engine, stop = draw(tmp_path / "page.png", 5, size=(40, 50)), Held(), StopRequest()
    ids = [upload(services, page) for _ in range(3)]
    options = WorkerOptions(
        worker_id="w1", defaults={"workers": 1}, state_folder=tmp_path / "state",
        engines=EngineCache(lambda _job, _weights: [engine]),
    )  # fmt: skip
    worker = threading.Thread(target=work, args=(services.settings, options, stop), daemon=True)
    worker.start()

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
            worker_id="w1", defaults={"workers": 1}, state_folder=tmp_path / "state",
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
        tmp_path / "state",
        services.database,
        services.files,
        StopRequest(),
    )
    runner.run(taken(services.database))
    found = job(services.database, job_id)
    assert (found["status"], found["error_code"]) == ("queued", "output")
    assert found["error"].startswith("the data folder of the worker cannot be written: ")
    assert str(tmp_path) not in found["error"]
