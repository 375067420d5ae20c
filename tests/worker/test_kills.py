"""Workers that are killed at random moments, again and again: nothing lost, nothing twice, nothing wrong."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.server import queue, workers
from comic_upscale.server.database.schema import files, jobs
from comic_upscale.server.services import Services
from tests.conftest import REPOSITORY, draw
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.running import PATIENCE, clean_environment, command, wait_for
from tests.server.test_whole_way import run_here
from tests.worker.test_crashes import odd_command

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills by signals")

KILLS = int(os.environ.get("COMIC_UPSCALE_TEST_KILLS", "2"))
"""Each costs the start of a worker. A long trial sets, for example, 200."""
PAGES = 8


def make_volume(folder: Path, number: int) -> Path:
    path = folder / f"volume{number}.cbz"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for page in range(PAGES):
            source = draw(folder.parent / "sources" / f"{page}.png", number * 100 + page, size=(160, 200))
            archive.write(source, f"{page:02}.png")
    return path


def start_light_worker(services: Services, home: Path) -> subprocess.Popen[bytes]:
    """A worker without a network, which is started much faster. Everything else of it is real."""
    variables = {} if services.settings.database is None else {"DATABASE_URL": services.settings.database}
    words = odd_command(services.settings.data, "--page-seconds", "0.05", "--idle-seconds", "60")
    return subprocess.Popen(
        words, env=clean_environment(home, **variables), cwd=REPOSITORY, stderr=subprocess.DEVNULL
    )


def start_worker(services: Services, home: Path) -> subprocess.Popen[bytes]:
    words = ("worker", "--data", services.settings.data, "--device", "cpu", "--worker-idle-timeout", "600")
    return subprocess.Popen(command(*words), env=clean_environment(home), stderr=subprocess.DEVNULL)


def progress(services: Services) -> int:
    total = sa.select(sa.func.coalesce(sa.func.sum(jobs.c.pages_done), 0))
    return services.database.read(lambda c: c.scalar(total)) or 0


def unfinished(services: Services) -> int:
    waiting = sa.select(sa.func.count()).where(jobs.c.status.in_(("queued", "running")))
    return services.database.read(lambda c: c.scalar(waiting)) or 0


def running_job(services: Services) -> str | None:
    running = sa.select(jobs.c.id).where(jobs.c.status == "running", jobs.c.lease_until > 0)
    return services.database.read(lambda c: c.scalar(running))


def test_nothing_is_lost_twice_or_wrong(open_server: OpenServices, tmp_path: Path) -> None:
    services = open_server()
    volumes = [make_volume(tmp_path / "volumes", each) for each in range(2)]
    run_here(tmp_path / "volumes", tmp_path / "out")
    expected = {volume.name: (tmp_path / "out" / volume.name).read_bytes() for volume in volumes}
    kill_workers(services, volumes, expected, start_worker, tmp_path, 2 if KILLS < 10 else min(KILLS, 20))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_many_kills_on_each_database(
    kind: str, request: pytest.FixtureRequest, open_server: OpenServices, tmp_path: Path
) -> None:
    url = request.getfixturevalue("postgres").new_database() if kind == "postgresql" else None
    services = open_server(database=url)
    volumes = [make_volume(tmp_path / "volumes", each) for each in range(max(2, KILLS // 2))]
    expected = run_without_kills(open_server(data=tmp_path / "other"), volumes, tmp_path)
    kill_workers(services, volumes, expected, start_light_worker, tmp_path, KILLS)


def run_without_kills(services: Services, volumes: list[Path], home: Path) -> dict[str, bytes]:
    """Return the result of each volume from a light worker that lives."""
    with client_of(services, make_key(services, "me")) as client:
        ids = upload(client, volumes)
        worker = start_light_worker(services, home)
        wait_for(lambda: not unfinished(services), seconds=PATIENCE * 5)
        worker.kill()
        worker.wait()
        return {
            volume.name: client.get(f"/api/v1/jobs/{job_id}/result", follow_redirects=True).content
            for volume, job_id in zip(volumes, ids, strict=True)
        }


def upload(client: httpx.Client, volumes: list[Path]) -> list[str]:
    answers = [
        client.post("/api/v1/uploads", files=[("file", (path.name, path.read_bytes()))]) for path in volumes
    ]
    return [answer.json()["job_id"] for answer in answers]


def kill_workers(
    services: Services,
    volumes: list[Path],
    expected: dict[str, bytes],
    start: Callable[[Services, Path], subprocess.Popen[bytes]],
    home: Path,
    most: int,
    on_kill: Callable[[str | None], None] = lambda _: None,
) -> int:
    """Let workers run jobs over volumes, kill each, and check that every result is there once and right.

    Returns:
        How many workers were killed.
    """
    with client_of(services, make_key(services, "me")) as client:
        ids = upload(client, volumes)
        dice, kills, before = random.Random(5), 0, 1
        # A page that ends three workers is set aside, so a job ends at most two.
        ended: Counter[str | None] = Counter()

        def may_kill() -> bool:
            job_id = running_job(services)
            return (job_id is not None and ended[job_id] < 2) or not unfinished(services)

        while unfinished(services):
            worker = start(services, home)
            try:
                if kills < most:
                    wait_for(may_kill, seconds=PATIENCE * 3)
                    # While the model loads, or some pages later.
                    some = dice.choice((0, 1, 2, 3)) if before else dice.choice((1, 2, 3))
                    before, done = some, progress(services)
                    wait_for(lambda: progress(services) >= done + some or not unfinished(services))  # noqa: B023
                    time.sleep(dice.uniform(0, 0.3))
                else:
                    wait_for(lambda: not unfinished(services), seconds=PATIENCE * 3)
            finally:
                worker.kill()
                worker.wait()
            # Now the worker cannot begin another job. Its own one is still marked as running.
            ended[running_job(services)] += 1
            kills += 1
            on_kill(running_job(services))
            # What the server does when its child is gone.
            services.database.write(workers.end_dead)
        assert kills > 2
        for job_id, volume in zip(ids, volumes, strict=True):
            job = client.get(f"/api/v1/jobs/{job_id}").json()
            assert (job["status"], job["pages"]["done"], job["pages"]["failed"]) == ("completed", PAGES, 0), (
                job
            )
            result = client.get(job["result_url"], follow_redirects=True).content
            # A volume has the same bytes every time.
            assert result == expected[volume.name]
            with zipfile.ZipFile(io.BytesIO(result)) as archive:
                assert len([name for name in archive.namelist() if name.endswith(".png")]) == PAGES
    results = services.database.read(
        lambda c: c.scalars(sa.select(files.c.job_id).where(files.c.kind == "result")).all()
    )
    assert sorted(results) == sorted(ids)
    return kills


def test_a_job_that_ends_every_worker_is_set_aside_by_the_next_one(
    open_server: OpenServices, tmp_path: Path
) -> None:
    services = open_server()
    volume = make_volume(tmp_path / "volumes", 1)
    with client_of(services, make_key(services, "me")) as client:
        job_id = client.post("/api/v1/uploads", files=[("file", (volume.name, volume.read_bytes()))]).json()[
            "job_id"
        ]
        for _ in range(queue.MAX_ATTEMPTS):
            services.database.write(lambda c: queue.claim(c, "dead", jobs_per_user=9))
            services.database.write(lambda c: queue.end_leases(c, "dead"))
        worker = start_light_worker(services, tmp_path)
        try:
            wait_for(lambda: client.get(f"/api/v1/jobs/{job_id}").json()["status"] == "failed")
        finally:
            worker.kill()
            worker.wait()
        assert client.get(f"/api/v1/jobs/{job_id}").json()["error"]["code"] == "set_aside"


def test_a_worker_that_was_stopped_past_its_lease_changes_nothing(
    open_server: OpenServices, tmp_path: Path
) -> None:
    services = open_server()
    volume = make_volume(tmp_path / "volumes", 1)
    with client_of(services, make_key(services, "me")) as client:
        job_id = client.post("/api/v1/uploads", files=[("file", (volume.name, volume.read_bytes()))]).json()[
            "job_id"
        ]
        worker = start_worker(services, tmp_path)
        try:
            wait_for(lambda: running_job(services) is not None)
            worker.send_signal(signal.SIGSTOP)
            # Its lease ends, and somebody else takes the job and finishes it.
            end_lease = sa.update(jobs).values(lease_until=0)
            services.database.write(lambda c: c.execute(end_lease))
            held = services.database.write(lambda c: queue.claim(c, "other", jobs_per_user=9))
            assert held is not None and held.job_id == job_id
            result = queue.Result(pages_total=1, pages_done=1, pages_failed=0, model="other")
            services.database.write(lambda c: queue.complete(c, held, result))
            worker.send_signal(signal.SIGCONT)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(PATIENCE) == 128 + signal.SIGTERM
        finally:
            worker.kill()
            worker.wait()
        found = client.get(f"/api/v1/jobs/{job_id}").json()
        assert (found["status"], found["model"]) == ("completed", "other")
    stored = [path for path in (services.settings.data / "files" / "results").rglob("*") if path.is_file()]
    assert stored == []
