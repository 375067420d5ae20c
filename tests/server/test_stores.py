"""One suite for every storage of files: a local folder, and servers of buckets. rclone ignores conditions."""

from __future__ import annotations

import hashlib
import io
import random
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from comic_upscale.errors import SettingsError, StorageError
from comic_upscale.server import queue
from comic_upscale.server.database.schema import files
from comic_upscale.server.files import FileStore, store_file
from comic_upscale.server.services import Services, open_services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.storage import open_files
from comic_upscale.worker.results import complete
from tests.server.buckets import Bucket, missing, running_bucket
from tests.server.conftest import client_of, make_key
from tests.server.test_queue import RESULT, taken
from tests.server.test_uploads import send
from tests.storage.conftest import OFTEN

KINDS = ["local", *OFTEN]
PART = 8 << 20
OpenSettings = Callable[..., ServerSettings]


@pytest.fixture(scope="module", params=KINDS)
def bucket(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bucket | None]:
    if request.param == "local":
        yield None
        return
    if reason := missing(request.param):
        pytest.skip(reason)
    with (
        running_bucket(request.param, tmp_path_factory.mktemp(request.param)) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in running.variables().items():
            patch.setenv(name, value)
        yield running


@pytest.fixture
def stored_in(bucket: Bucket | None, tmp_path: Path) -> OpenSettings:
    """Makes settings with a storage of the test's own."""

    def settings(**changes: object) -> ServerSettings:
        data = tmp_path / "data"
        if bucket is None:
            return ServerSettings(**{"data": data, "storage": str(tmp_path / "elsewhere"), **changes})  # type: ignore[arg-type]
        return bucket.settings(data, f"{tmp_path.name}-{random.randrange(10**9)}", **changes)

    return settings


@pytest.fixture
def store(stored_in: OpenSettings) -> FileStore:
    return open_files(stored_in())


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def keys(store: FileStore) -> list[str]:
    return sorted(file.key for file in store.list())


@pytest.mark.parametrize("size", [0, 1, 1000, PART - 1, PART, PART + 1, 2 * PART + 12345])
def test_a_file_comes_back_whole_and_in_parts(store: FileStore, tmp_path: Path, size: int) -> None:
    content = content_of(size)
    stored = store_file(store, "uploads/u/0", io.BytesIO(content))
    assert (stored.key, stored.size, stored.sha256) == (
        "uploads/u/0",
        size,
        hashlib.sha256(content).hexdigest(),
    )
    assert store.size("uploads/u/0") == size
    assert b"".join(store.read("uploads/u/0", 0, size)) == content
    for start, end in ((0, 1), (size // 3, size // 2), (max(size - 5, 0), size)):
        if start < end <= size:
            assert b"".join(store.read("uploads/u/0", start, end)) == content[start:end]
    for _ in range(2):
        store.fetch("uploads/u/0", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content
    assert keys(store) == ["uploads/u/0"]


@pytest.mark.parametrize("size", [10, PART + 1, 3 * PART])
def test_a_file_that_is_given_up_leaves_nothing(store: FileStore, size: int) -> None:
    with pytest.raises(RuntimeError), store.create("uploads/u/0") as writer:
        writer.write(content_of(size))
        raise RuntimeError
    assert store.size("uploads/u/0") is None
    assert keys(store) == []


def test_what_is_missing_is_told_apart_from_what_fails(store: FileStore, tmp_path: Path) -> None:
    assert store.size("uploads/u/0") is None
    with pytest.raises(FileNotFoundError):
        list(store.read("uploads/u/0", 0, 10))
    with pytest.raises(FileNotFoundError):
        store.fetch("uploads/u/0", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    store.delete("uploads/u/0")
    store_file(store, "uploads/u/0", io.BytesIO(b"1"))
    store.delete("uploads/u/0")
    assert keys(store) == []


@pytest.mark.parametrize(
    "key", ["../x", "uploads/../x", "/x", "uploads//x", "uploads/U/0", "uploads/u/0/1/2", ""]
)
def test_a_key_that_is_none_is_refused(store: FileStore, key: str) -> None:
    for call in (store.create, store.size, store.delete, store.local_path):
        with pytest.raises(ValueError, match="not a key"):
            call(key)
    with pytest.raises(ValueError, match="not a key"):
        list(store.read(key, 0, 1))


def test_many_writers_at_once(store: FileStore) -> None:
    contents = {f"uploads/u/{number}": content_of(number * 1000) for number in range(1, 25)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: store_file(store, item[0], io.BytesIO(item[1])), contents.items()))
    assert keys(store) == sorted(contents)
    for key, content in contents.items():
        assert b"".join(store.read(key, 0, len(content))) == content


# A part of Google's server is in this process, so its memory would count.
@pytest.mark.parametrize("bucket", [kind for kind in KINDS if kind != "google"], indirect=True)
def test_a_large_file_is_never_whole_in_memory(store: FileStore, tmp_path: Path) -> None:
    class Endless(io.RawIOBase):
        left = 80 << 20

        def read(self, size: int = -1) -> bytes:
            size = min(size, self.left)
            self.left -= size
            return bytes(size)

    tracemalloc.start()
    try:
        store_file(store, "uploads/u/0", Endless())  # type: ignore[arg-type]
        store.fetch("uploads/u/0", tmp_path / "copy")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "copy").stat().st_size == 80 << 20
    # Of Python's own memory: the buffer, the piece in the queue and the ones that are sent.
    assert peak < 6 * PART


def test_an_upload_becomes_a_download(stored_in: OpenSettings) -> None:
    services = open_services(stored_in())
    try:
        with client_of(services, make_key(services, "me")) as client:
            job_id = send(client, "a.png", "b.png").json()["job_id"]
            held = taken(services.database)
            content = content_of(5000)
            stored = [
                (
                    name,
                    store_file(
                        services.files, f"results/{job_id}/1-{number}", io.BytesIO(content + name.encode())
                    ),
                )
                for number, name in enumerate(("a.png", "b.png"))
            ]
            services.database.write(lambda c: complete(c, held, stored, [None] * len(stored), [], RESULT))
            answer = client.get(f"/api/v1/jobs/{job_id}/result", follow_redirects=True)
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                assert {name: archive.read(name) for name in archive.namelist()} == {
                    name: content + name.encode() for name in ("a.png", "b.png")
                }
            _check_ranges(services, client, content)
            gone = services.database.read(lambda c: c.scalars(sa.select(files.c.storage_key)).all())
            assert client.delete(f"/api/v1/jobs/{job_id}").status_code == 204
        assert len(gone) == 4
        assert keys(services.files) == []
    finally:
        services.close()


def _check_ranges(services: Services, client: object, content: bytes) -> None:
    held = taken_after_upload(services, client, content)
    link = client.get(f"/api/v1/jobs/{held}/result").headers["location"]  # type: ignore[attr-defined]
    for asked, status, expected in (
        ("bytes=0-9", 206, content[:10]), ("bytes=4990-", 206, content[4990:]), ("bytes=-7", 206, content[-7:]),
        ("bytes=9999-", 416, None), ("", 200, content),
    ):  # fmt: skip
        answer = client.get(link, headers={"Range": asked} if asked else {})  # type: ignore[attr-defined]
        assert answer.status_code == status
        assert expected is None or answer.content == expected
    key = services.database.read(
        lambda c: c.scalar(sa.select(files.c.storage_key).where(files.c.job_id == held))
    )
    services.files.delete(str(key))
    assert client.get(link).status_code == 404  # type: ignore[attr-defined]
    assert client.delete(f"/api/v1/jobs/{held}").status_code == 204  # type: ignore[attr-defined]


def taken_after_upload(services: Services, client: object, content: bytes) -> str:
    job_id = str(send(client, "c.png").json()["job_id"])  # type: ignore[arg-type]
    held = taken(services.database)
    assert held.job_id == job_id
    stored = [("c.png", store_file(services.files, f"results/{job_id}/1-0", io.BytesIO(content)))]
    services.database.write(lambda c: complete(c, held, stored, [None] * len(stored), [], RESULT))
    return job_id


@pytest.mark.parametrize("bucket", OFTEN, indirect=True)
def test_a_storage_that_is_away_refuses_uploads_and_loses_nothing(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comic_upscale.storage import buckets

    monkeypatch.setitem(buckets.RETRIES, "max_retries", 0)
    away = bucket.behind("http://127.0.0.1:9")
    for name, value in away.variables().items():
        if name == "GCE_METADATA_HOST":
            # The login is not away.
            continue
        monkeypatch.setenv(name, value)
    services = open_services(away.settings(tmp_path / "data"))
    try:
        with client_of(services, make_key(services, "me")) as client:
            answer = send(client)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
            assert client.get("/api/v1/jobs").json()["jobs"] == []
        with pytest.raises(StorageError, match="cannot be used"):
            list(services.files.list())
        services.files.delete("uploads/u/0")
    finally:
        services.close()


# The others check no signatures.
@pytest.mark.parametrize("bucket", ["rclone", "azurite"], indirect=True)
def test_a_wrong_secret_is_told_and_not_shown(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(bucket, secret="notthesecretofthisbucket")
    for name, value in wrong.variables().items():
        monkeypatch.setenv(name, value)
    store = open_files(wrong.settings(tmp_path / "data"))
    with pytest.raises(StorageError, match="check its keys and rights") as caught:
        store_file(store, "uploads/u/0", io.BytesIO(b"1"))
    assert "notthesecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"storage": "ftp://host/x"}, "--storage must be s3://bucket/prefix"),
        ({"storage_backend": "s3"}, "needs S3_BUCKET"),
        ({"storage": "s3://b", "s3_access_key_id": "x"}, "set both or none"),
        ({"storage": "s3://Not A Bucket/x"}, "is no address of a bucket"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, values: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_files(ServerSettings(data=tmp_path, **values))  # type: ignore[arg-type]


def test_a_lost_claim_cannot_reach_the_results_of_the_next(stored_in: OpenSettings) -> None:
    services = open_services(stored_in())
    try:
        with client_of(services, make_key(services, "me")) as client:
            job_id = send(client).json()["job_id"]
        first = taken(services.database)
        services.database.write(lambda c: queue.end_leases(c, first.job["worker_id"]))
        second = taken(services.database)
        results = {
            each.fence: store_file(
                services.files, f"results/{job_id}/{each.fence}-0", io.BytesIO(b"%d" % each.fence)
            )
            for each in (second, first)
        }
        services.database.write(
            lambda c: complete(c, second, [("a", results[second.fence])], [None], [], RESULT)
        )
        with pytest.raises(queue.LostLeaseError):
            services.database.write(
                lambda c: complete(c, first, [("a", results[first.fence])], [None], [], RESULT)
            )
        kept = services.database.read(
            lambda c: c.scalar(sa.select(files.c.storage_key).where(files.c.kind == "result"))
        )
        assert b"".join(services.files.read(str(kept), 0, 1)) == b"%d" % second.fence
    finally:
        services.close()
