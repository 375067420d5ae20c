"""Resumable uploads: cut anywhere, they continue where the storage has them, and become the same jobs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa
from starlette.requests import ClientDisconnect

from comic_upscale.server import accounts, resumable
from comic_upscale.server.api import resumable as routes
from comic_upscale.server.database.schema import files, jobs, pieces, uploads
from comic_upscale.server.database.schema import resumable as table
from comic_upscale.server.ids import new_id
from comic_upscale.server.janitor import Janitor
from comic_upscale.server.services import Services
from tests.server.buckets import missing, running_bucket
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.test_uploads import PNG, count, left_over, send

ADDRESS = "/api/v1/uploads/resumable"
TUS = {"Tus-Resumable": "1.0.0"}


def metadata(name: str, *, hold: bool = False, **fields: str) -> str:
    pairs = {"filename": name, **fields}
    texts = [f"{key} {base64.b64encode(text.encode()).decode()}" for key, text in pairs.items()]
    return ",".join(texts + ["hold"] * hold)


def begin(client: httpx.Client, length: int, name: str = "book.cbz", **more: Any) -> httpx.Response:
    headers = TUS | {"Upload-Length": str(length), "Upload-Metadata": metadata(name, **more)}
    return client.post(ADDRESS, headers=headers)


def patch(client: httpx.Client, url: str, offset: int, data: Any, **headers: str) -> httpx.Response:
    own = TUS | {"Upload-Offset": str(offset), "Content-Type": routes.CONTENT_TYPE}
    return client.patch(url, content=data, headers=own | headers)


def offset_of(client: httpx.Client, url: str) -> int:
    answer = client.head(url, headers=TUS)
    assert answer.status_code == 200, answer.status_code
    return int(answer.headers["upload-offset"])


def stored_files(services: Services) -> list[bytes]:
    def read(connection: Any) -> list[tuple[str, int]]:
        wanted = sa.select(files.c.storage_key, files.c.size).order_by(files.c.position)
        return [tuple(row) for row in connection.execute(wanted)]

    return [b"".join(services.files.read(key, 0, size)) for key, size in services.database.read(read)]


def owner_of(services: Services, upload_id: str) -> accounts.Account:
    wanted = sa.select(table.c.owner_id).where(table.c.id == upload_id)
    user_id = services.database.read(lambda c: c.execute(wanted).one()).owner_id
    return accounts.Account(user_id=user_id, name="me", role="user", scopes=accounts.scopes_of("user"))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "PIECE_BYTES", 1000)


async def read_cut(services: Services, account: Any, upload_id: str, data: bytes, cut: int, end: Any) -> None:
    """What a PATCH does whose connection ends after some bytes, or whose server is killed then."""
    row = services.database.read(lambda c: resumable.find(c, account, upload_id))
    assert row is not None
    token = new_id()
    services.database.write(lambda c: resumable.lock(c, [upload_id], token))

    async def stream() -> AsyncIterator[bytes]:
        rest = data[row["offset"] : cut]
        for start in range(0, len(rest), 300):
            yield rest[start : start + 300]
        raise end

    with pytest.raises(type(end)):
        await routes._Receiver(services, account, row, token, None).read(stream())
    services.database.write(lambda c: resumable.unlock(c, token))


class Killed(BaseException):
    """The process ends here: nothing that would come later happens."""


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("where", ["local", "moto"])
def test_cut_at_random_places_the_upload_is_whole(
    open_server: OpenServices, where: str, tmp_path: Path
) -> None:
    data = random.Random(7).randbytes(20_000)

    def check(services: Services) -> None:
        key = make_key(services, "me")
        with client_of(services, key) as client:
            url = begin(client, len(data), factor="3").headers["location"]
            upload_id = url.rpartition("/")[2]
            account = owner_of(services, upload_id)
            rng = random.Random(1)
            for cut in sorted(rng.sample(range(1, len(data)), 8)):
                before = offset_of(client, url)
                if cut <= before:
                    continue
                if rng.random() < 0.5:
                    asyncio.run(read_cut(services, account, upload_id, data, cut, ClientDisconnect()))
                    # Whatever arrived counts.
                    assert offset_of(client, url) == cut
                else:
                    asyncio.run(read_cut(services, account, upload_id, data, cut, Killed()))
                    # What was flushed to the storage counts: all but the last piece.
                    assert cut - 1300 < offset_of(client, url) <= cut
            offset = offset_of(client, url)
            answer = patch(client, url, offset, data[offset:])
            assert answer.status_code == 204
            job = client.get(f"/api/v1/jobs/{answer.headers['comic-upscale-job']}").json()
        assert (job["title"], job["params"]["size"]) == ("book.cbz", "scale 3")
        assert stored_files(services) == [data]
        assert count(services, pieces) == 0
        assert [file.key.split("/")[0] for file in services.files.list()] == ["uploads"]

    if where == "local":
        check(open_server())
        return
    if reason := missing(where):
        pytest.skip(reason)
    with running_bucket(where, tmp_path / "bucket") as bucket:
        settings = bucket.settings(tmp_path / "data", "cut")
        names = ("storage", "s3_endpoint", "s3_access_key_id", "s3_secret_access_key")
        check(open_server(**{name: getattr(settings, name) for name in names}))


def test_several_files_become_one_job_once(services: Services) -> None:
    with client_of(services, make_key(services, "me")) as client:
        urls = [begin(client, 5, name, hold=True).headers["location"] for name in ("a.png", "b.png")]
        ids = [url.rpartition("/")[2] for url in urls]
        asked = {"uploads": ids, "fields": {"factor": "2x", "preset": "art"}}
        assert patch(client, urls[0], 0, b"first").status_code == 204
        early = client.post(f"{ADDRESS}/complete", json=asked)
        assert (early.status_code, early.json()["error"]["code"]) == (409, "incomplete")
        assert patch(client, urls[1], 0, b"other").status_code == 204
        wrong = client.post(f"{ADDRESS}/complete", json={"uploads": ids, "fields": {"factor": "99"}})
        assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "factor")
        assert count(services, jobs) == count(services, uploads) == 0
        twice = client.post(f"{ADDRESS}/complete", json={"uploads": [ids[0], ids[0]]})
        assert twice.status_code == 400
        first, again = (client.post(f"{ADDRESS}/complete", json=asked) for _ in range(2))
        assert first.status_code == again.status_code == 202 and first.json() == again.json()
        other = begin(client, 1, "c.png", hold=True).headers["location"]
        patch(client, other, 0, b"c")
        mixed = client.post(f"{ADDRESS}/complete", json={"uploads": [ids[0], other.rpartition("/")[2]]})
        assert (mixed.status_code, mixed.json()["error"]["code"]) == (409, "in_use")
        assert client.get(urls[0]).json()["job_id"] == first.json()["job_id"]
    assert stored_files(services) == [b"first", b"other"] and count(services, jobs) == 1


def test_requests_that_do_not_fit_are_refused(open_server: OpenServices) -> None:
    services = open_server(max_upload_size=1000, max_files=1)
    with client_of(services, make_key(services, "me")) as client:
        abilities = client.options(ADDRESS)
        assert abilities.status_code == 204 and abilities.headers["tus-max-size"] == "1000"
        assert begin(client, 1001).status_code == 413
        assert begin(client, 0).status_code == 400
        assert begin(client, 10, "virus.exe").status_code == 415
        assert begin(client, 10, factor="99").json()["error"]["field"] == "factor"
        assert client.post(ADDRESS, headers={"Upload-Length": "1"}).status_code == 412
        bad = TUS | {"Upload-Length": "1", "Upload-Metadata": "filename %%%"}
        assert client.post(ADDRESS, headers=bad).json()["error"]["field"] == "Upload-Metadata"
        url = begin(client, 10).headers["location"]
        assert offset_of(client, url) == 0
        late = patch(client, url, 5, b"x")
        assert (late.status_code, late.headers["upload-offset"]) == (409, "0")
        assert late.headers["tus-resumable"] == "1.0.0"
        assert patch(client, url, 0, b"x" * 11).status_code == 413
        assert patch(client, url, 0, b"x", **{"Content-Type": "image/png"}).status_code == 415
        assert client.patch(url, headers=TUS).status_code == 415
        assert offset_of(client, url) == 0 and left_over(services) == []
        # An upload that the method's name would not let through.
        headers = TUS | {
            "X-HTTP-Method-Override": "PATCH",
            "Upload-Offset": "0",
            "Content-Type": routes.CONTENT_TYPE,
        }
        assert client.post(url, content=b"xyz", headers=headers).status_code == 204
        assert offset_of(client, url) == 3
        for _ in range(3):
            assert begin(client, 10).status_code == 201
        too_many = begin(client, 10)
        assert (too_many.status_code, too_many.json()["error"]["code"]) == (429, "too_many_open")
        assert client.delete(url, headers=TUS).status_code == 204
        assert client.head(url, headers=TUS).status_code == 404 and left_over(services) == []
        assert begin(client, 10).status_code == 201


def test_too_many_small_pieces_are_refused(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "MOST_CUTS", 2)
    with client_of(services, make_key(services, "me")) as client:
        url = begin(client, 10).headers["location"]
        assert [patch(client, url, offset, b"x").status_code for offset in range(3)] == [204, 204, 400]
        assert offset_of(client, url) == 2 and len(left_over(services)) == 2


def test_a_wrong_checksum_changes_nothing(services: Services) -> None:
    data = b"x" * 5000
    with client_of(services, make_key(services, "me")) as client:
        url = begin(client, len(data), hold=True).headers["location"]
        for algorithm in ("sha1", "sha256"):
            wrong = base64.b64encode(hashlib.new(algorithm, b"other").digest()).decode()
            answer = patch(client, url, 0, data, **{"Upload-Checksum": f"{algorithm} {wrong}"})
            assert answer.status_code == 460 and offset_of(client, url) == 0
        assert patch(client, url, 0, data, **{"Upload-Checksum": "crc1 x"}).status_code == 400
        assert left_over(services) == []
        right = base64.b64encode(hashlib.sha1(data).digest()).decode()
        assert patch(client, url, 0, data, **{"Upload-Checksum": f"sha1 {right}"}).status_code == 204
        assert offset_of(client, url) == len(data)


def test_a_fast_sender_with_a_checksum_keeps_its_lock(
    services: Services, monkeypatch: pytest.MonkeyPatch, small_pieces: None
) -> None:
    # A second goes by between two pieces, which are recorded together at the end only.
    seconds = itertools.count()
    monkeypatch.setattr(routes, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    renewed = []
    lock = resumable.lock

    def note(*arguments: Any) -> None:
        renewed.append(arguments)
        lock(*arguments)

    monkeypatch.setattr(resumable, "lock", note)
    data = b"x" * 30_000

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    with client_of(services, make_key(services, "me")) as client:
        upload_id = begin(client, len(data), hold=True).headers["location"].rpartition("/")[2]
    account = owner_of(services, upload_id)
    row = services.database.read(lambda c: resumable.find(c, account, upload_id))
    assert row is not None
    token = new_id()
    services.database.write(lambda c: lock(c, [upload_id], token))
    checksum = ("sha1", hashlib.sha1(data).digest())
    asyncio.run(routes._Receiver(services, account, row, token, checksum).read(stream()))
    # Every third of the ten seconds that a lock lasts.
    assert len(renewed) >= 5


def test_a_second_request_is_refused_while_one_sends(services: Services) -> None:
    with client_of(services, make_key(services, "me")) as client:
        url = begin(client, 20, hold=True).headers["location"]
        upload_id, token = url.rpartition("/")[2], new_id()
        services.database.write(lambda c: resumable.lock(c, [upload_id], token))
        for answer in (
            patch(client, url, 0, b"other"), client.delete(url, headers=TUS),
            client.post(f"{ADDRESS}/complete", json={"uploads": [upload_id]}),
        ):  # fmt: skip
            assert (answer.status_code, answer.json()["error"]["code"]) == (423, "locked")
        services.database.write(lambda c: resumable.unlock(c, token))
        assert patch(client, url, 0, b"other").status_code == 204


def test_whoever_lost_the_lock_changes_nothing(services: Services) -> None:
    make_key(services, "me")
    with client_of(services, make_key(services, "me")) as client:
        url = begin(client, 20, hold=True).headers["location"]
        upload_id, old, new = url.rpartition("/")[2], new_id(), new_id()
        services.database.write(lambda c: resumable.lock(c, [upload_id], old))
        piece = resumable.PieceWriter(services.files, upload_id).store([b"late"])
        # The lock of the old request expires, and a new one takes it.
        services.database.write(lambda c: c.execute(sa.update(table).values(locked_until=1)))
        services.database.write(lambda c: resumable.lock(c, [upload_id], new))
        with pytest.raises(resumable.LockedError):
            services.database.write(lambda c: resumable.add_pieces(c, upload_id, old, [piece], 1000))
        with pytest.raises(resumable.LockedError):
            services.database.write(lambda c: resumable.attach(c, [upload_id], old, "job"))
        assert offset_of(client, url) == 0
        services.database.write(resumable.unlock_all)
        assert patch(client, url, 0, b"x").status_code == 204


def test_an_upload_belongs_to_its_user(services: Services) -> None:
    with (
        client_of(services, make_key(services, "me")) as mine,
        client_of(services, make_key(services, "them")) as other,
    ):
        url = begin(mine, 10, hold=True).headers["location"]
        for answer in (
            other.head(url, headers=TUS), other.get(url), patch(other, url, 0, b"x"), other.delete(url, headers=TUS),
            other.post(f"{ADDRESS}/complete", json={"uploads": [url.rpartition("/")[2]]}),
        ):  # fmt: skip
            assert answer.status_code == 404
        assert offset_of(mine, url) == 0


def test_quotas_count_uploads_that_are_open(services: Services) -> None:
    with (
        client_of(services, make_key(services, "me")) as client,
        client_of(services, make_key(services, "boss", "admin")) as boss,
    ):
        boss.patch("/api/v1/admin/users/me", json={"bytes_per_day": 100}).raise_for_status()
        assert send(client, content=PNG).status_code == 202
        assert begin(client, 60).status_code == 201
        refused = begin(client, 60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota")


def test_anonymous_files_count_as_one_upload(open_server: OpenServices) -> None:
    services = open_server(public=True, uploads_per_hour=1)
    with client_of(services) as client:
        urls = [begin(client, 1, name, hold=True).headers["location"] for name in ("a.png", "b.png")]
        assert [patch(client, url, 0, b"x").status_code for url in urls] == [204, 204]
        ids = [url.rpartition("/")[2] for url in urls]
        assert client.post(f"{ADDRESS}/complete", json={"uploads": ids}).status_code == 202
        assert client.post(f"{ADDRESS}/complete", json={"uploads": ids}).status_code == 429


def test_the_janitor_deletes_expired_uploads_and_keeps_open_ones(services: Services) -> None:
    janitor = Janitor(services.database, services.files, services.settings.data / "work")
    with client_of(services, make_key(services, "me")) as client:
        url, kept = (begin(client, 10, hold=True).headers["location"] for _ in range(2))
        patch(client, url, 0, b"x")
        patch(client, kept, 0, b"y")
        expired = sa.update(table).where(table.c.id == url.rpartition("/")[2]).values(expires_at=1)
        services.database.write(lambda c: c.execute(expired))
        assert client.head(url, headers=TUS).status_code == 404
        cleaned = janitor.clean()
        assert (cleaned.unfinished, cleaned.orphans, cleaned.missing) == (1, 0, 0)
        assert len(left_over(services)) == 1 and offset_of(client, kept) == 1
