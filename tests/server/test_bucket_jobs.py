"""Jobs of administrators over buckets: within the roots, fetched once, with results beside the pages or in a folder."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comic_upscale.errors import OutputError, SettingsError
from comic_upscale.execution.stop import StopRequest
from comic_upscale.server import queue
from comic_upscale.server.buckets import BucketFolder, FetchStoppedError, find_in_bucket
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.storage import open_bucket
from comic_upscale.settings.places import parse_place
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.job import JobRunner
from tests.archives import picture
from tests.fakes import NearestEngine
from tests.server.buckets import Bucket, missing, running_bucket
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.test_queue import job, taken


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    if reason := missing("moto"):
        pytest.skip(reason)
    with running_bucket("moto", tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture
def root(bucket: Bucket, tmp_path: Path) -> str:
    """The address of a prefix of this test's own."""
    return f"s3://{bucket.name}/{tmp_path.name.replace('_', '-')}/library"


@pytest.fixture
def services(bucket: Bucket, root: str, open_server: OpenServices, tmp_path: Path) -> Services:
    (tmp_path / "local").mkdir()
    return open_server(
        roots=(root, str(tmp_path / "local")), s3_endpoint=bucket.endpoint, s3_access_key_id=bucket.key,
        s3_secret_access_key=bucket.secret,
    )  # fmt: skip


class Objects:
    """What is below an address."""

    def __init__(self, settings: ServerSettings, address: str) -> None:
        self.store = open_bucket(settings, address)

    def put(self, name: str, data: bytes) -> None:
        import obstore

        obstore.put(self.store, name, data)

    def get(self, name: str) -> bytes:
        import obstore

        return bytes(obstore.get(self.store, name).bytes())

    def names(self) -> list[str]:
        import obstore

        return sorted(each["path"] for page in obstore.list(self.store) for each in page)


def volume() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(2):
            archive.writestr(f"{number}.png", picture(number, (20, 24)))
    return data.getvalue()


def ask(services: Services, **body: Any) -> Any:
    with client_of(services, make_key(services, "boss", "admin")) as client:
        return client.post("/api/v1/admin/jobs", json={"options": {"factor": "2"}, **body})


def run(services: Services, home: Path, engine: NearestEngine | None = None) -> dict[str, Any]:
    runner = JobRunner(
        services.settings, {"workers": 1}, services.database, services.files, StopRequest(),
        EngineCache(lambda _job, _weights: [engine or NearestEngine()]),
    )  # fmt: skip
    claimed = taken(services.database)
    runner.run(claimed)
    return job(services.database, claimed.job_id)


def test_a_series_in_a_bucket_is_upscaled_beside_itself(
    services: Services, root: str, tmp_path: Path
) -> None:
    library = Objects(services.settings, root)
    library.put("Series/loose.png", picture(1, (20, 24)))
    library.put("Series/deep/Book.cbz", volume())
    library.put("Other/page.png", picture(2, (20, 24)))
    created = ask(services, input=f"{root}/Series")
    assert created.status_code == 202, created.text
    assert created.json()["output"] == f"{root}/Series/upscaled"
    found = run(services, tmp_path)
    assert (found["status"], found["pages_done"]) == ("completed", 3), found
    names = library.names()
    assert [name for name in names if "/upscaled/" in name] == [
        "Series/upscaled/deep/Book.cbz", "Series/upscaled/loose.png",
    ]  # fmt: skip
    with Image.open(io.BytesIO(library.get("Series/upscaled/loose.png"))) as image:
        source = np.asarray(Image.open(io.BytesIO(picture(1, (20, 24)))))
        assert np.array_equal(np.asarray(image), source.repeat(2, 0).repeat(2, 1))
    # Its folder is gone, and a second job takes no result for a page.
    assert not list((services.settings.data / "work").iterdir())
    ask(services, input=f"{root}/Series", output=f"{root}/Second")
    again = run(services, tmp_path)
    assert (again["status"], again["pages_total"]) == ("completed", 3), again
    # One that could not place its results is refused before it computes any.
    ask(services, input=f"{root}/Series")
    refused = run(services, tmp_path, engine := NearestEngine())
    assert refused["status"] == "failed" and "choose another output" in refused["error"]
    assert not engine.batches


def test_one_object_and_results_in_a_folder(services: Services, root: str, tmp_path: Path) -> None:
    Objects(services.settings, root).put("Book.cbz", volume())
    created = ask(services, input=f"{root}/Book.cbz", output=str(tmp_path / "local" / "out"))
    assert created.status_code == 202, created.text
    assert run(services, tmp_path)["status"] == "completed"
    assert (tmp_path / "local" / "out" / "Book.cbz").is_file()
    assert Objects(services.settings, root).names() == ["Book.cbz"]


def test_what_is_outside_of_the_roots_is_refused(services: Services, root: str, bucket: Bucket) -> None:
    for address in (
        f"s3://{bucket.name}", f"s3://{bucket.name}/another", f"{root}-2", f"{root}/../other", f"{root}/a//b",
        "s3://another-bucket/library", root.replace("s3:", "gs:"), "http://169.254.169.254/", f"{root}/a\0b", "s3://",
    ):  # fmt: skip
        answer = ask(services, input=address)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, "input"), address
    for output in (f"s3://{bucket.name}/another", root, "/etc/out"):
        answer = ask(services, input=f"{root}/Series", output=output)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, "output"), output


def test_an_object_of_somebody_else_is_not_overwritten(services: Services, root: str, tmp_path: Path) -> None:
    library = Objects(services.settings, root)
    library.put("Series/page.png", picture(1, (20, 24)))
    library.put("Series/upscaled/page.png", b"mine")
    ask(services, input=f"{root}/Series")
    found = run(services, tmp_path)
    assert found["status"] == "failed" and "choose another output" in found["error"]
    assert library.get("Series/upscaled/page.png") == b"mine"


def test_what_is_fetched_is_not_fetched_again_and_a_stop_is_heard(
    services: Services, root: str, tmp_path: Path
) -> None:
    library = Objects(services.settings, root)
    for number in range(3):
        library.put(f"{number}.png", picture(number, (20, 24)))
    folder, place = tmp_path / "in", parse_place(root)
    folder.mkdir()
    answers = iter([False, True])
    results = [place.below("upscaled")]
    with pytest.raises(FetchStoppedError):
        BucketFolder(services.settings, place).fetch(
            folder, without=results, should_stop=lambda: next(answers)
        )
    (first,) = folder.iterdir()
    number = first.stat().st_ino
    BucketFolder(services.settings, place).fetch(folder, without=results, should_stop=lambda: False)
    assert len(list(folder.iterdir())) == 3 and first.stat().st_ino == number


def test_a_job_without_objects_and_one_that_fits_on_no_disk_say_so(
    root: str, services: Services, tmp_path: Path
) -> None:
    ask(services, input=f"{root}/empty")
    found = run(services, tmp_path)
    assert found["status"] == "failed" and found["error"] == f"{root}/empty has no objects"
    with pytest.raises(
        OutputError, match=r"need [\d,]+ bytes, and the disk of the worker has room for [\d,]+: free"
    ):
        BucketFolder(services.settings, parse_place(root))._check_room(tmp_path, 1 << 60)


def test_a_job_that_is_canceled_while_it_is_fetched(services: Services, root: str, tmp_path: Path) -> None:
    Objects(services.settings, root).put("page.png", picture(1, (20, 24)))
    job_id = ask(services, input=root).json()["job_id"]
    claimed = taken(services.database)
    runner = JobRunner(
        services.settings,
        {"workers": 1},
        services.database,
        services.files,
        StopRequest(),
    )
    services.database.write(lambda c: queue.request_cancel(c, job_id))
    assert runner._settle_stop(claimed, "canceled", None)
    assert job(services.database, job_id)["status"] == "canceled"


@pytest.mark.parametrize(
    "text", ["s3:/bucket", "ftp://bucket/x", "s3://UPPER/x", "s3://bucket/./x", "s3://bucket/a/../b"]
)
def test_addresses_that_are_none(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no address of a bucket"):
        parse_place(text)


def test_roots_by_parts_of_names() -> None:
    assert find_in_bucket(["s3://b-1/lib"], "s3://b-1/lib/x/").address == "s3://b-1/lib/x"
    assert find_in_bucket(["s3://b-1"], "s3://b-1").address == "s3://b-1"
    for address in ("s3://b-1/library", "s3://b-1", "s3://b-12/lib"):
        with pytest.raises(SettingsError, match="not below"):
            find_in_bucket(["s3://b-1/lib"], address)


def test_a_root_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--root must be"):
        ServerSettings(data=tmp_path, roots=("http://example.com/x",))
