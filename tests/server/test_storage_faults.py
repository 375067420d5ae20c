"""A bucket that breaks in the middle of an upload or a download: it is whole and right, or nobody takes it for that."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from comic_upscale.server.database.schema import files
from comic_upscale.server.files import store_file
from comic_upscale.server.services import Services, open_services
from comic_upscale.storage import buckets
from comic_upscale.storage.buckets import PART_BYTES, READ_BYTES
from comic_upscale.worker.results import complete
from tests.conftest import LONG
from tests.server.buckets import Bucket, missing, running_bucket
from tests.server.conftest import client_of, make_key
from tests.server.test_queue import RESULT, taken
from tests.server.test_uploads import send
from tests.storage.proxy import Fault, FaultProxy, fault_proxy

FAULTS: list[Fault] = ["unavailable", "reset", "cut", "lost answer"]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    if reason := missing("moto"):
        pytest.skip(reason)
    with running_bucket("moto", tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the bucket. The library repeats no request, so that each fault is one of the storage."""
    monkeypatch.setitem(buckets.RETRIES, "max_retries", 0)
    with fault_proxy(bucket.endpoint) as running:
        yield running


@pytest.fixture
def services(proxy: FaultProxy, bucket: Bucket, tmp_path: Path) -> Iterator[Services]:
    """A server whose files go through the proxy."""
    behind = replace(bucket, endpoint=proxy.endpoint)
    opened = open_services(behind.settings(tmp_path / "data", f"{tmp_path.name}-{random.randrange(10**9)}"))
    yield opened
    opened.close()


def break_one(proxy: FaultProxy, at: int, fault: Fault) -> None:
    """Break one request, counted from now on."""
    first = len(proxy.requests)
    proxy.plan = lambda _method, _path, number: fault if number == first + at else None


@pytest.mark.parametrize("fault", FAULTS if LONG else ["reset", "lost answer"])
def test_an_upload_is_whole_or_refused(proxy: FaultProxy, services: Services, fault: Fault) -> None:
    content = random.Random(1).randbytes(PART_BYTES + 12_345)
    with client_of(services, make_key(services, "me")) as client:
        accepted = refused = 0
        while not accepted:
            break_one(proxy, refused, fault)
            answer = send(client, "a.png", content=content)
            jobs = client.get("/api/v1/jobs").json()["jobs"]
            if answer.status_code == 202:
                accepted += 1
            else:
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
                assert (jobs, proxy.broken.pop()) == ([], fault)
                refused += 1
        # The beginning of the upload, its two parts and its end, each broken once. A cut answer may be long enough.
        assert refused == 4 or fault == "cut"
        key = str(services.database.read(lambda c: c.scalar(sa.select(files.c.storage_key))))
    proxy.plan = lambda *_: None
    assert b"".join(services.files.read(key, 0, len(content))) == content


@pytest.mark.parametrize("fault", FAULTS if LONG else ["unavailable", "cut"])
def test_a_download_that_breaks_does_not_end_as_a_whole_one(
    proxy: FaultProxy, services: Services, fault: Fault
) -> None:
    content = random.Random(2).randbytes(2 * READ_BYTES + 777)
    with client_of(services, make_key(services, "me")) as client:
        job_id = send(client, "a.png").json()["job_id"]
        held = taken(services.database)
        stored = [("a.png", store_file(services.files, f"results/{job_id}/1-0", io.BytesIO(content)))]
        services.database.write(lambda c: complete(c, held, stored, [None], [], RESULT))
        link = client.get(f"/api/v1/jobs/{job_id}/result").headers["location"]
        for at in itertools.count():
            break_one(proxy, at, fault)
            answer = client.get(link)
            if not proxy.broken:
                break
            proxy.broken.clear()
            if answer.status_code != 503 and answer.content != content:
                # A client knows by the length that was said that this is not all.
                assert content.startswith(answer.content)
                assert int(answer.headers["content-length"]) == len(content)
        # Its size, and its three ranges.
        assert at >= 4
        proxy.plan = lambda *_: None
        assert client.get(link).content == content
