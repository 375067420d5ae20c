"""The health report tells within ten seconds: a silent worker, a stuck queue, a storage or a database that is away."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from comic_upscale.server import health, monitor, workers
from comic_upscale.server.database.schema import jobs, now_ms
from comic_upscale.server.database.schema import workers as workers_table
from comic_upscale.server.files import LocalFiles
from comic_upscale.server.services import Services
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.running import wait_for
from tests.server.test_queue import add, taken
from tests.server.test_uploads import send


def report(services: Services) -> dict[str, Any]:
    with client_of(services) as client:
        found: dict[str, Any] = client.get("/api/v1/health").json()
        return found


def look(services: Services) -> list[str]:
    asyncio.run(services.monitor.look())
    return services.monitor.problems()


def test_the_looks_and_limits_add_up_to_ten_seconds() -> None:
    assert monitor.LOOK_SECONDS + monitor.STORAGE_SECONDS <= 10
    assert 2 * monitor.LOOK_SECONDS + monitor.STUCK_SECONDS <= 10
    assert health.SILENT_SECONDS <= 10


def test_a_worker_without_a_sign_of_life_is_reported(services: Services) -> None:
    services.database.write(lambda c: workers.register(c, "worker"))
    assert report(services)["reasons"] == []
    silent = sa.update(workers_table).values(last_seen_at=now_ms() - int(health.SILENT_SECONDS * 1000) - 1000)
    services.database.write(lambda c: c.execute(silent))
    assert wait_for(lambda: report(services)["reasons"]) == ["a worker gives no sign of life"]
    services.database.write(lambda c: workers.end(c, "worker"))
    wait_for(lambda: report(services)["status"] == "ok")


def test_a_queue_without_a_worker_is_reported(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(services) == []
    add(services.database)
    # It is reported only after some seconds: a worker needs a moment to start.
    assert look(services) == []
    monkeypatch.setattr(monitor, "STUCK_SECONDS", 0.0)
    assert look(services) == ["jobs wait, and no worker is online"]
    assert "no worker is online" in report(services)["reasons"][0]
    services.database.write(lambda c: workers.register(c, "worker"))
    assert look(services) == ["jobs wait, and no worker takes one"]
    taken(services.database)
    assert look(services) == []


def test_a_storage_that_lost_its_folder_is_reported(services: Services) -> None:
    assert look(services) == []
    assert isinstance(services.files, LocalFiles)
    shutil.rmtree(services.files.folder)
    services.files.folder.write_text("not a folder any more")
    (problem,) = look(services)
    assert problem.startswith("the storage cannot be used")
    services.files.folder.unlink()
    services.files.folder.mkdir()
    assert look(services) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, or a skip."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user cannot mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_refuses_uploads_and_is_reported(
    open_server: OpenServices, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = open_server(storage=str(small_disk), min_free_disk=0.0)
    # Each look writes, and each request asks for the free space: the test need not wait a minute and a second.
    monkeypatch.setattr(monitor, "WRITE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(monitor, "_FREE_SECONDS", 0.0)
    with client_of(services, make_key(services, "me")) as client:
        assert look(services) == [] and report(services)["reasons"] == []
        before = sorted(small_disk.rglob("*"))
        answer = client.post("/api/v1/uploads", files=[("file", ("page.png", bytes(2 << 20)))])
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")
        assert sorted(small_disk.rglob("*")) == before
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        (problem,) = look(services)
        assert problem.startswith("the storage cannot be used")
        assert problem in report(services)["reasons"]
        filler.unlink()
        assert look(services) == [] and send(client).status_code == 202


def test_a_disk_that_is_almost_full_is_reported_at_once(
    open_server: OpenServices, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = open_server(storage=str(small_disk), min_free_disk=50.0)
    monkeypatch.setattr(monitor, "_FREE_SECONDS", 0.0)
    with client_of(services, make_key(services, "me")) as client:
        (small_disk / "filler").write_bytes(bytes(600 << 10))
        assert report(services)["reasons"] == ["the disk is almost full, so uploads are refused"]
        assert send(client).status_code == 507
        (small_disk / "filler").unlink()
        assert report(services)["status"] == "ok" and send(client).status_code == 202


def test_a_storage_that_does_not_answer_is_reported_and_holds_no_request(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(monitor, "STORAGE_SECONDS", 0.1)
    monkeypatch.setattr(LocalFiles, "create", lambda _self, _key: go_on.wait(300))
    monkeypatch.setattr(LocalFiles, "free_percent", lambda _self: go_on.wait(300))

    async def look_and_go_on() -> list[str]:
        threads = threading.active_count()
        try:
            await services.monitor.look()
            free = await asyncio.gather(*[services.monitor.free_percent() for _ in range(30)])
            free += [await services.monitor.free_percent() for _ in range(30)]
            assert set(free) == {None}
            # One for each kind of look and a few of the database, however many ask.
            assert threading.active_count() <= threads + 4
            return services.monitor.problems()
        finally:
            go_on.set()

    (problem,) = asyncio.run(look_and_go_on())
    assert problem.startswith("the storage does not answer")


def test_a_database_that_does_not_answer_is_down(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(monitor, "DATABASE_SECONDS", 0.1)
    monkeypatch.setattr(health, "queue_figures", lambda _connection: go_on.wait(30))
    with client_of(services) as client:
        answer = client.get("/api/v1/health")
        go_on.set()
    assert (answer.status_code, answer.json()["status"]) == (503, "down")


def test_metrics_read_each_ended_job_once(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    from comic_upscale.server import metrics

    monkeypatch.setattr(metrics, "AT_ONCE", 2)
    monkeypatch.setattr(metrics, "KEEP_SECONDS", 0.0)
    with client_of(services, make_key(services, "me")) as client:
        for number in range(5):
            send(client, f"{number}.png")
        ended = sa.update(jobs).values(status="completed", pages_done=3, seconds=2.0, updated_at=1000)
        services.database.write(lambda c: c.execute(ended))

        def value(name: str) -> float | None:
            for line in client.get("/metrics").text.splitlines():
                if line.startswith(name):
                    return float(line.rpartition(" ")[2])
            return None

        assert value('comic_upscale_jobs{status="completed"}') == 5
        assert value("comic_upscale_pages_done") == 15 and value("comic_upscale_job_seconds_sum") == 10
        # Read once: older ones that change do not count again.
        services.database.write(lambda c: c.execute(sa.update(jobs).values(pages_done=100)))
        assert value("comic_upscale_pages_done") == 15
        # Nothing is said before everything is counted.
        monkeypatch.setattr(metrics, "BUDGET_SECONDS", -1.0)
        services.metrics._ended._until = -1
        assert value("comic_upscale_pages_done") is None and value('comic_upscale_jobs{status="queued"}') == 0
