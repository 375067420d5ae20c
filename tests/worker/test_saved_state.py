"""A job that moves to another machine: it continues from what the first machine saved."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from comic_upscale.errors import InputError
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.queries import read_done_pages
from comic_upscale.server import janitor, queue, workers
from comic_upscale.server.database.schema import files, jobs
from comic_upscale.server.services import Services, open_services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.job import JobRunner
from comic_upscale.worker.saved_state import LEDGER, SavedState, state_of
from tests.conftest import REPOSITORY, draw
from tests.fakes import NearestEngine
from tests.server.buckets import Bucket, missing, running_bucket
from tests.server.conftest import client_of, make_key
from tests.server.postgres import Cluster
from tests.server.running import clean_environment, wait_for
from tests.server.test_queue import taken
from tests.worker.test_crashes import odd_command

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills by signals")

PAGES = 20
Machine = Callable[[str], ServerSettings]


@pytest.fixture(scope="module", params=["local", "moto", "rclone"])
def bucket(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bucket | None]:
    if request.param == "local":
        yield None
        return
    if reason := missing(request.param):
        pytest.skip(reason)
    with running_bucket(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def machine(bucket: Bucket | None, postgres: Cluster, tmp_path: Path) -> Machine:
    """Makes the settings of a machine with a data folder of its own, on one database and one storage."""
    database = postgres.new_database()

    def settings(name: str) -> ServerSettings:
        if bucket is None:
            return ServerSettings(data=tmp_path / name, database=database, storage=str(tmp_path / "shared"))
        return bucket.settings(tmp_path / name, tmp_path.name.replace("_", "-"), database=database)

    return settings


def make_volume(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "book.cbz", "w") as archive:
        for page in range(PAGES):
            archive.write(draw(folder / "sources" / f"{page}.png", page, size=(120, 160)), f"{page:02}.png")
    return folder / "book.cbz"


def run_here(settings: ServerSettings, services: Services, claimed: queue.Claim, home: Path) -> int:
    """Run a job in this process, and return how many pages the engine got."""
    engine = NearestEngine()
    cache = EngineCache(lambda _job, _weights: [engine])
    runner = JobRunner(settings, {"workers": 2}, services.database, services.files, StopRequest(), cache)
    runner.run(claimed)
    cache.close()
    return sum(shape[0] for shape in engine.batches)


def test_pages_that_are_done_are_not_done_again_on_another_machine(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machine("first"), machine("second")
    services = open_services(second)
    volume = make_volume(tmp_path)
    try:
        with client_of(services, make_key(services, "me")) as client:
            answer = client.post(
                "/api/v1/uploads", files=[("file", (volume.name, volume.read_bytes()))], data={"factor": "2x"}
            )
            job_id = answer.json()["job_id"]
            saved = _kill_the_first(first, services, job_id, tmp_path)
            claimed = taken(services.database)
            assert claimed.job_id == job_id and claimed.fence == 2
            processed = run_here(second, services, claimed, tmp_path)
            job = client.get(f"/api/v1/jobs/{job_id}").json()
            assert (job["status"], job["pages"]["done"]) == ("completed", PAGES), job
            assert processed == PAGES - saved
            result = client.get(job["result_url"], follow_redirects=True).content
        with zipfile.ZipFile(io.BytesIO(result)) as archive:
            names = [name for name in archive.namelist() if name.endswith(".png")]
            assert len(names) == PAGES
            for name in names:
                expected = (
                    np.asarray(Image.open(tmp_path / "sources" / f"{int(name[:2])}.png"))
                    .repeat(2, 0)
                    .repeat(2, 1)
                )
                assert np.array_equal(np.asarray(Image.open(io.BytesIO(archive.read(name)))), expected)
        kinds = services.database.read(
            lambda c: c.scalars(sa.select(files.c.kind).where(files.c.job_id == job_id)).all()
        )
        assert sorted(kinds) == ["picturedata", "pictures", "result"]
        # A worker that is killed while it stores live pictures leaves files that no row names.
        monkeypatch.setattr(janitor, "ORPHAN_SECONDS", -3600.0)
        janitor.Janitor(services.database, services.files, second.data / "work").clean()
        assert len(list(services.files.list())) == 4
    finally:
        services.close()


def _kill_the_first(settings: ServerSettings, services: Services, job_id: str, home: Path) -> int:
    """Run a worker on the first machine, kill it, remove its disk, and return the number of pages that are saved."""
    variables = {
        "COMIC_UPSCALE_STORAGE": settings.storage,
        "COMIC_UPSCALE_SAVE_INTERVAL": "0.1",
        "DATABASE_URL": settings.database,
        "S3_ENDPOINT": settings.s3_endpoint,
        "AWS_ACCESS_KEY_ID": settings.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_access_key,
    }
    environment = clean_environment(home, **{name: value for name, value in variables.items() if value})
    worker = subprocess.Popen(
        # Slow enough that the job has not ended when a busy machine notices what is saved.
        odd_command(settings.data, "--page-seconds", "1.5", "--idle-seconds", "5"),
        env=environment,
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
    )

    def saved() -> int:
        for row in services.database.read(lambda c: state_of(c, job_id)):
            if row["name"] == LEDGER:
                # It may have been replaced just now.
                with contextlib.suppress(FileNotFoundError, InputError):
                    copy = home / f"{row['id']}.sqlite3"
                    services.files.fetch(row["storage_key"], copy)
                    return len(read_done_pages(copy)[1])
        return 0

    try:
        wait_for(lambda: saved() >= 2)
    finally:
        worker.kill()
        worker.wait()
    status = sa.select(jobs.c.status).where(jobs.c.id == job_id)
    assert services.database.read(lambda c: c.scalar(status)) == "running", "the job ended before the kill"
    services.database.write(workers.end_dead)
    return saved()


def test_a_worker_that_lost_its_job_cannot_change_the_state(machine: Machine, tmp_path: Path) -> None:
    settings = machine("first")
    services = open_services(settings)
    try:
        with client_of(services, make_key(services, "me")) as client:
            client.post(
                "/api/v1/uploads", files=[("file", ("page.png", draw(tmp_path / "p.png", 1).read_bytes()))]
            )
        states = {}
        for name in ("lost", "holder"):
            claimed = taken(services.database, name)
            services.database.write(lambda c, name=name: queue.end_leases(c, name))
            states[name] = SavedState(services.database, services.files, claimed, tmp_path / name)
            states[name].restore()
            _finish_a_page(tmp_path / name / "out", name)
        assert states["holder"].save()
        before = sorted(file.key for file in services.files.list())
        assert not states["lost"].save()
        assert sorted(file.key for file in services.files.list()) == before
        third = SavedState(services.database, services.files, claimed, tmp_path / "third")
        third.restore()
        assert (tmp_path / "third" / "out" / "page.png").read_bytes() == b"holder"
        assert third.stored("page.png") == states["holder"].stored("page.png") is not None
        (tmp_path / "third" / "out" / "page.png").write_bytes(b"other!")
        assert third.stored("page.png") is None
    finally:
        services.close()


def _finish_a_page(output: Path, content: str) -> None:
    from comic_upscale.ledger.writer import Ledger

    output.mkdir(parents=True)
    (output / "page.png").write_text(content)
    (output / LEDGER).parent.mkdir()
    Ledger(output / LEDGER).close()
    (output / LEDGER).with_name("run.lock").touch()
    (output / ".comic-upscale-7.part").touch()


def test_a_folder_that_is_newer_than_the_state_stays(machine: Machine, tmp_path: Path) -> None:
    settings = machine("first")
    services = open_services(settings)
    try:
        with client_of(services, make_key(services, "me")) as client:
            client.post(
                "/api/v1/uploads", files=[("file", ("page.png", draw(tmp_path / "p.png", 1).read_bytes()))]
            )
        claimed = taken(services.database)
        state = SavedState(services.database, services.files, claimed, tmp_path / "a")
        state.restore()
        _finish_a_page(tmp_path / "a" / "out", "first")
        assert state.save()
        (tmp_path / "a" / "out" / "later.png").write_bytes(b"later")
        services.database.write(lambda c: queue.end_leases(c, "w1"))
        again = SavedState(services.database, services.files, taken(services.database), tmp_path / "a")
        again.restore()
        assert (tmp_path / "a" / "out" / "later.png").is_file()
        # A file that is gone from the folder leaves the state, too.
        (tmp_path / "a" / "out" / "page.png").unlink()
        assert again.save()
        names = services.database.read(lambda c: {row["name"] for row in state_of(c, claimed.job_id)})
        assert names == {LEDGER, "later.png"}
        assert len(list(services.files.list())) == 3
    finally:
        services.close()


def test_a_job_waits_for_a_storage_that_is_away(
    bucket: Bucket | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bucket is None:
        pytest.skip("a local disk is not away")
    from comic_upscale.storage import buckets

    monkeypatch.setitem(buckets.RETRIES, "max_retries", 0)
    settings = bucket.settings(tmp_path / "data", "away")
    services = open_services(settings)
    away = open_services(replace(settings, s3_endpoint="http://127.0.0.1:9"))
    try:
        with client_of(services, make_key(services, "me")) as client:
            client.post(
                "/api/v1/uploads", files=[("file", ("p.png", draw(tmp_path / "p.png", 1).read_bytes()))]
            )
        # More often than a job may fail.
        for _ in range(queue.MAX_ATTEMPTS + 1):
            services.database.write(lambda c: c.execute(sa.update(jobs).values(not_before=0)))
            assert run_here(settings, away, taken(services.database), tmp_path) == 0
            row = services.database.read(lambda c: c.execute(sa.select(jobs)).mappings().one())
            assert (row["status"], row["error_code"], row["attempts"]) == ("queued", "storage", 0)
            assert row["not_before"] > row["created_at"]
        services.database.write(lambda c: c.execute(sa.update(jobs).values(not_before=0)))
        assert run_here(settings, services, taken(services.database), tmp_path) == 1
        assert services.database.read(lambda c: c.scalar(sa.select(jobs.c.status))) == "completed"
    finally:
        away.close()
        services.close()
