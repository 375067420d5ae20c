"""A disk that is really full: uploads are refused, jobs wait, nothing half-written stays, and room is enough."""

from __future__ import annotations

import errno
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from comic_upscale.server import workers
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.files import DiskFullError, FileStore, LocalFiles, store_file
from comic_upscale.server.object_files import ObjectFiles
from comic_upscale.server.services import Services
from tests.conftest import LONG, REPOSITORY
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.running import PATIENCE, clean_environment
from tests.worker.test_crashes import odd_command


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of the test's own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
            check=True,
            capture_output=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        pytest.skip("only an administrator of Linux can make a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=60)


def fill(disk: Path, *, but: int) -> Path:
    """Fill the disk except for some bytes, and return the file that does it."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(max(file.tell() - but, 0))
    return ballast


def noise(size: tuple[int, int]) -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def stored(services: Services) -> list[Path]:
    return [path for path in (services.settings.data / "files").rglob("*") if path.is_file()]


def test_uploads_wait_for_room(open_server: OpenServices, disk: Path) -> None:
    services = open_server(data=disk / "data", min_free_disk=0.0)
    page = noise((600, 400))
    with client_of(services, make_key(services, "me")) as client:
        ballast = fill(disk, but=300_000)
        answer = client.post("/api/v1/uploads", files=[("file", ("page.png", page))])
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")
        assert stored(services) == []
        assert client.get("/api/v1/jobs").json()["jobs"] == []
        ballast.unlink()
        assert client.post("/api/v1/uploads", files=[("file", ("page.png", page))]).status_code == 202
        assert len(stored(services)) == 1


def run_worker(services: Services, home: Path) -> None:
    worker = subprocess.run(
        odd_command(services.settings.data), env=clean_environment(home), cwd=REPOSITORY, timeout=PATIENCE,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in worker.stderr, worker.stderr


@pytest.mark.parametrize("room", [60_000, 600_000, 2_500_000] if LONG else [600_000])
def test_a_job_goes_on_when_there_is_room(
    open_server: OpenServices, disk: Path, tmp_path: Path, room: int
) -> None:
    services = open_server(data=disk / "data", min_free_disk=0.0)
    page = noise((600, 400))
    with client_of(services, make_key(services, "me")) as client:
        answer = client.post(
            "/api/v1/uploads", files=[("file", ("page.png", page))], data={"factor": "2x", "format": "png"}
        )
        job_id = answer.json()["job_id"]
        # No room for the ledger, for the output, or for a second copy of it among the results.
        ballast = fill(disk, but=room)
        run_worker(services, tmp_path)
        job = client.get(f"/api/v1/jobs/{job_id}").json()
        assert job["status"] in ("queued", "running"), job
        assert len(stored(services)) == 1
        ballast.unlink()
        services.database.write(workers.end_dead)
        services.database.write(lambda c: c.execute(sa.update(jobs).values(not_before=0, lease_until=0)))
        run_worker(services, tmp_path)
        job = client.get(f"/api/v1/jobs/{job_id}").json()
        assert (job["status"], job["pages"]["done"]) == ("completed", 1), job
        result = client.get(job["result_url"], follow_redirects=True).content
    with Image.open(io.BytesIO(page)) as source, Image.open(io.BytesIO(result)) as output:
        assert np.array_equal(np.asarray(source).repeat(2, 0).repeat(2, 1), np.asarray(output))
    # The upload, the result, and the two files with its pictures.
    assert len(stored(services)) == 4
    assert not list((services.settings.data / "work").iterdir())


@pytest.mark.parametrize("kind", ["local", "bucket"])
def test_a_full_disk_is_not_taken_for_a_storage_that_is_away(tmp_path: Path, disk: Path, kind: str) -> None:
    """A job waits for its storage without end, but not for room on this machine."""
    store: FileStore = LocalFiles(tmp_path / "files")
    if kind == "bucket":
        stores = pytest.importorskip("obstore.store", reason="obstore is not installed: pip install '.[s3]'")
        store = ObjectFiles(stores.MemoryStore())
    store_file(store, "uploads/u/0", io.BytesIO(bytes(1_000_000)))
    ballast = fill(disk, but=300_000)
    with pytest.raises(DiskFullError, match="free some space"):
        store.fetch("uploads/u/0", disk / "page")
    assert list(disk.iterdir()) == [ballast]
    ballast.unlink()
    store.fetch("uploads/u/0", disk / "page")
    assert (disk / "page").stat().st_size == 1_000_000
