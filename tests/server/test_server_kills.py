"""A server, its worker and PostgreSQL are killed while uploads come in: accepted work is done once, and right."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
import sqlalchemy as sa

from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import files, jobs
from comic_upscale.server.services import open_database
from comic_upscale.server.settings import ServerSettings
from tests.conftest import draw
from tests.server.postgres import Cluster, missing, running_cluster
from tests.server.running import PATIENCE, RunningServer, wait_for
from tests.server.test_whole_way import run_here

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills by signals")

KILLS = int(os.environ.get("COMIC_UPSCALE_TEST_KILLS", "0"))
"""Each costs the start of a server or a worker. A long trial sets, for example, 200; else each kind is killed once."""
PAGES = 4


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL of this test's own, since it is killed."""
    if reason := missing():
        pytest.skip(reason)
    with running_cluster() as running:
        yield running


class Uploader(threading.Thread):
    """Uploads one page after the other, and each until it is accepted, as a client does that must not lose any."""

    def __init__(self, server: RunningServer, pages: list[Path]) -> None:
        super().__init__(daemon=True)
        self._server, self._pages = server, pages
        self.accepted: dict[str, int] = {}
        """The job of each upload, with the number of its page."""
        self.repeats = 0
        self.odd_answers: list[str] = []
        """Answers that no client should get. The first one ends the uploads."""
        self.stop = threading.Event()

    def run(self) -> None:
        number = 0
        # It ends only after an upload that was accepted: the last one may be a job already.
        is_accepted = False
        while not (self.odd_answers or (is_accepted and self.stop.is_set())):
            is_accepted = self._send(f"upload-{number}", number % len(self._pages))
            number += is_accepted
            self.stop.wait(0.5)

    def _send(self, key: str, page: int) -> bool:
        headers = {"X-API-Key": self._server.key, "Idempotency-Key": key}
        path = self._pages[page]
        try:
            answer = httpx.post(
                f"{self._server.api}/api/v1/uploads", headers=headers, timeout=30,
                files=[("file", (path.name, path.read_bytes()))],
            )  # fmt: skip
        except (httpx.HTTPError, OSError):
            self.repeats += 1
            return False
        if answer.status_code != 202:
            # The database is away, or the server is stopping.
            if answer.status_code not in (500, 503):
                self.odd_answers.append(f"{answer.status_code} {answer.text}")
            self.repeats += 1
            return False
        self.accepted[answer.json()["job_id"]] = page
        return True


def kill_server(server: RunningServer) -> None:
    server.kill()
    server.start()


def kill_worker(server: RunningServer) -> None:
    assert server.process is not None
    for child in psutil.Process(server.process.pid).children():
        child.kill()


def kill_postgres(cluster: Cluster) -> Callable[[RunningServer], None]:
    def kill(_server: RunningServer) -> None:
        postmaster = int((cluster.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        processes = [psutil.Process(postmaster), *psutil.Process(postmaster).children()]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes, timeout=PATIENCE)
        cluster.start()

    return kill


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_was_accepted_is_done_once_and_right(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    options: tuple[object, ...] = ("--device", "cpu", "--jobs-per-user", "9", "--rate-limit", "100000")
    kills: list[Callable[[RunningServer], None]] = [kill_server, kill_worker]
    url = None
    if kind == "postgresql":
        cluster: Cluster = request.getfixturevalue("cluster")
        url = cluster.new_database()
        options += ("--database", url)
        kills.append(kill_postgres(cluster))
    pages = [draw(tmp_path / "in" / f"{number}.png", number, size=(32, 48)) for number in range(PAGES)]
    run_here(tmp_path / "in", tmp_path / "out")
    server = RunningServer(tmp_path / "data", tmp_path, *options, **({"DATABASE_URL": url} if url else {}))
    server.start()
    uploader = Uploader(server, pages)
    uploader.start()
    dice = random.Random(7)
    try:
        for number in range(KILLS or len(kills)):
            time.sleep(dice.uniform(0.2, 3))
            kills[number % len(kills)](server)
        most = KILLS or len(kills)
        wait_for(lambda: uploader.odd_answers or len(uploader.accepted) >= most, seconds=PATIENCE + most)
        assert not uploader.odd_answers
        uploader.stop.set()
        uploader.join()
        _check(server, uploader, pages, tmp_path / "out", url)
    finally:
        uploader.stop.set()
        server.kill()


def _check(
    server: RunningServer, uploader: Uploader, pages: list[Path], expected: Path, url: str | None
) -> None:
    page_of = dict(uploader.accepted)
    database = open_database(ServerSettings(data=server.data, database=url), migrating=False)
    try:
        ended, gone = _wait_for_all(database), set[str]()
        while KILLS and (set_aside := [job_id for job_id, status in ended.items() if status == "failed"]):
            # Three workers in a row may be killed over the same job.
            for job_id in set_aside:
                page_of[_run_again(server, job_id)] = page_of.pop(job_id)
            gone |= set(set_aside)
            found = _wait_for_all(database)
            ended = {job_id: status for job_id, status in found.items() if job_id not in gone}
        results = database.read(
            lambda c: c.scalars(sa.select(files.c.job_id).where(files.c.kind == "result")).all()
        )
    finally:
        database.close()
    # Nothing lost, and nothing twice: a repeated upload has a key.
    assert ended == dict.fromkeys(page_of, "completed"), (uploader.repeats, server.log()[-3000:])
    assert sorted(results) == sorted(page_of)
    with server.client() as client:
        for job_id, page in page_of.items():
            result = client.get(f"/api/v1/jobs/{job_id}/result")
            assert result.content == (expected / pages[page].name).read_bytes()


def _wait_for_all(database: Database) -> dict[str, str]:
    """Wait until all jobs have ended, and return their statuses."""
    waiting = sa.select(sa.func.count()).where(jobs.c.status.in_(("queued", "running")))
    wait_for(lambda: database.read(lambda c: c.scalar(waiting)) == 0, seconds=PATIENCE * 10, every=0.5)
    found = database.read(lambda c: c.execute(sa.select(jobs.c.id, jobs.c.status)).all())
    return {row.id: row.status for row in found}


def _run_again(server: RunningServer, job_id: str) -> str:
    """Check that a job was set aside because workers ended, run it again, and return the new job."""
    with server.client() as client:
        job = client.get(f"/api/v1/jobs/{job_id}").json()
        assert "was set aside" in json.dumps([job["error"], job["failures"]]), job
        answer = client.post(f"/api/v1/jobs/{job_id}/again", json={})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])
