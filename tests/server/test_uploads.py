"""Uploads: what is accepted, what is refused, and that a refused one leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import itertools
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa
from starlette.requests import ClientDisconnect

from comic_upscale.errors import DatabaseError
from comic_upscale.server import idempotency, queue
from comic_upscale.server.api.routing import MOST_BODY
from comic_upscale.server.app import create_app
from comic_upscale.server.database.schema import files, jobs, uploads
from comic_upscale.server.files import LocalFiles
from comic_upscale.server.multipart import Limits, Received, UploadReader
from comic_upscale.server.services import Services
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.running import wait_for

PNG = b"\x89PNG\r\n\x1a\n not opened here"


def send(client: httpx.Client, *names: str, content: bytes = PNG, **fields: str) -> httpx.Response:
    parts = [("file", (name, content)) for name in names or ("page.png",)]
    return client.post("/api/v1/uploads", files=parts, data=fields)


def left_over(services: Services) -> list[str]:
    folder = services.settings.data / "files"
    return [str(path) for path in folder.rglob("*") if path.is_file()]


def count(services: Services, table: sa.Table) -> int:
    return services.database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(table))) or 0


def test_an_upload_is_stored_and_queued(services: Services) -> None:
    with client_of(services, make_key(services, "me")) as client:
        answer = send(client, "page.png", "page.png", "../../etc/passwd.jpg", factor="2x", preset="art")
        assert answer.status_code == 202
        body = answer.json()
        assert (body["status"], body["queue_position"], body["estimated_seconds"]) == ("queued", 1, None)
        assert answer.headers["location"] == f"/api/v1/jobs/{body['job_id']}"
        job = client.get(answer.headers["location"]).json()
    assert job["params"]["size"] == "scale 2" and job["params"]["model"] == "realesr-animevideov3"
    rows = services.database.read(
        lambda c: c.execute(sa.select(files).order_by(files.c.position)).mappings().all()
    )
    assert [row["name"] for row in rows] == ["page.png", "page (2).png", "passwd.jpg"]
    for row in rows:
        path = services.files.local_path(row["storage_key"])
        assert path is not None and path.read_bytes() == PNG
    assert len(left_over(services)) == 3


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"factor": "9"}, "factor", "at most 8"),
        ({"factor": "large"}, "factor", "must be a number"),
        ({"factor": "nan"}, "factor", "at least 1"),
        ({"factor": "2", "width": "100"}, "factor", "exclude each other"),
        ({"width": "many"}, "width", "whole number"),
        ({"preset": "none"}, "preset", "standard, art, photo, face"),
        ({"denoise": "lots"}, "denoise", "none, low, med, high"),
        ({"denoise": "2"}, "denoise", "between 0 and 1"),
        ({"quality": "101", "format": "webp"}, "quality", "between 1 and 100"),
        ({"quality": "50"}, "quality", "PNG"),
        ({"format": "exe"}, "format", "one of"),
        ({"model": "/etc/passwd"}, "model", "no model"),
        ({"model": "../weights/x.pth"}, "model", "no model"),
        ({"refine_faces": "true"}, "refine_faces", "cannot refine faces"),
        ({"engine_options": "command=rm"}, "engine_options", "no option"),
        ({"backend": "command"}, "backend", "no option"),
        ({"engine_command": "rm -rf /"}, "engine_command", "no option"),
        ({"output": "/tmp"}, "output", "no option"),
        ({"max_pixels": "999999999999"}, "max_pixels", "no option"),
        ({"callback_url": "https://example.com"}, "callback_url", "leave callback_url out"),
        ({"email": "me@example.com"}, "email", "sends no mail"),
        ({"lane": "fast"}, "lane", "interactive or batch"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_left(
    services: Services, fields: dict[str, str], field: str, message: str
) -> None:
    with client_of(services, make_key(services, "me")) as client:
        answer = send(client, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["field"] == field
    assert message in answer.json()["error"]["message"]
    assert "--" not in answer.json()["error"]["message"]
    assert left_over(services) == [] and count(services, jobs) == count(services, uploads) == 0


@pytest.mark.parametrize("name", ["virus.exe", "page", "", "page.png.html", "a.svg"])
def test_a_file_that_is_no_comic_is_refused(services: Services, name: str) -> None:
    with client_of(services, make_key(services, "me")) as client:
        body = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\nx\r\n--b--\r\n'
        answer = client.post(
            "/api/v1/uploads",
            content=body.encode(),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_file")
    assert left_over(services) == []


def test_sizes_and_numbers_are_bounded(open_server: OpenServices) -> None:
    services = open_server(max_upload_size=1000, max_files=2)
    with client_of(services, make_key(services, "me")) as client:
        assert send(client, content=b"x" * 1000).status_code == 202
        kept = len(left_over(services))
        for answer in (
            send(client, content=b"x" * 1001),
            send(client, "a.png", "b.png", content=b"x" * 501),
            send(client, "a.png", "b.png", "c.png", content=b"x"),
            send(client, content=b"x", title="y" * 70_000),
        ):
            assert answer.status_code == 413, answer.text
        # A body without a length, that says it is a file and does not end.
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        chunks = itertools.chain([head], (b"z" * 65536 for _ in range(200)))
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        assert client.post("/api/v1/uploads", content=chunks, headers=headers).status_code == 413
    assert len(left_over(services)) == kept


def test_only_an_upload_may_be_large(services: Services) -> None:
    large = b"x" * (MOST_BODY + 1)
    with client_of(services, make_key(services, "me")) as client:
        assert send(client, content=large).status_code == 202
        refused = client.post("/api/v1/auth/login", content=b'{"username": "' + large + b'"}')
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 415),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n", 400),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\nno end',
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="evil"; filename="a.png"\r\n\r\nx\r\n--b--\r\n',
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n\r\n--b--\r\n',
            400,
        ),
    ],
)
def test_a_malformed_form_is_refused(services: Services, content_type: str, body: bytes, status: int) -> None:
    with client_of(services, make_key(services, "me")) as client:
        answer = client.post("/api/v1/uploads", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]
    assert left_over(services) == []


@pytest.mark.parametrize("error", [ClientDisconnect, asyncio.CancelledError])
def test_an_upload_that_breaks_off_anywhere_leaves_nothing(
    tmp_path: Path, error: type[BaseException]
) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    whole = head + b"x" * (1 << 20) + b"\r\n" + head + b"y" * (2 << 20) + b"\r\n--b--\r\n"
    store = LocalFiles(tmp_path)
    limits = Limits(max_bytes=1 << 30, max_files=9, accept=lambda _name: True)

    async def pieces(end: int) -> AsyncIterator[bytes]:
        for start in range(0, end, 65536):
            yield whole[start : min(start + 65536, end)]
        if end < len(whole):
            raise error

    async def read(end: int) -> Received:
        reader = UploadReader(store, lambda number: f"uploads/u/{number}", limits)
        return await reader.read("multipart/form-data; boundary=b", pieces(end))

    for end in (1, len(head), len(head) + 5, *range(65536, len(whole), 655360), len(whole) - 3):
        with pytest.raises(error):
            asyncio.run(read(end))
        assert [*tmp_path.iterdir()] == []
    assert [received.file.size for received in asyncio.run(read(len(whole))).files] == [1 << 20, 2 << 20]


def test_a_full_disk_is_507_and_leaves_nothing(
    open_server: OpenServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comic_upscale.storage.parts import Part

    def full(_self: Part) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    services = open_server(min_free_disk=5.0)
    monkeypatch.setattr(LocalFiles, "free_percent", lambda _self: 50.0)
    with client_of(services, make_key(services, "me")) as client:
        monkeypatch.setattr(Part, "flush", full)
        answer = send(client, "a.png", "b.png")
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")
        assert left_over(services) == [] and count(services, jobs) == 0
        monkeypatch.undo()
        monkeypatch.setattr(LocalFiles, "free_percent", lambda _self: 1.0)
        # The free space is at most a second old.
        wait_for(lambda: client.get("/api/v1/health").json()["free_disk_percent"] == 1.0)
        assert send(client).status_code == 507
        health = client.get("/api/v1/health").json()
        assert health["status"] == "degraded" and "disk" in health["reasons"][0]


def test_a_cancelled_upload_keeps_the_files_of_a_job_that_is_committed_later(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = idempotency.create_once

    def held(*words: Any) -> idempotency.Answer:
        begun.set()
        assert go_on.wait(60)
        return real(*words)

    monkeypatch.setattr(idempotency, "create_once", held)
    headers = {"X-API-Key": make_key(services, "me")}

    async def send_and_cancel() -> None:
        transport = httpx.ASGITransport(create_app(services))
        async with httpx.AsyncClient(
            transport=transport, base_url="https://server.test", headers=headers
        ) as client:
            sending = asyncio.ensure_future(
                client.post("/api/v1/uploads", files=[("file", ("page.png", PNG))])
            )
            assert await asyncio.to_thread(begun.wait, 60)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

    try:
        asyncio.run(send_and_cancel())
    finally:
        go_on.set()
    # The writer works in order, so it has finished the job before this.
    services.database.write(lambda _connection: None)
    assert (count(services, jobs), len(left_over(services))) == (1, 1)


def test_an_error_after_the_commit_keeps_the_files(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = services.database.write_async

    async def broken(work: Any) -> None:
        await real(work)
        raise DatabaseError("the connection broke")

    with client_of(services, make_key(services, "me")) as client:
        client.get("/api/v1/jobs")
        monkeypatch.setattr(services.database, "write_async", broken)
        assert send(client).status_code == 503
    assert (count(services, jobs), len(left_over(services))) == (1, 1)


def test_maintenance_refuses_uploads_and_nothing_else(services: Services) -> None:
    with client_of(services, make_key(services, "me")) as client:
        job = send(client).json()["job_id"]
        services.database.write(lambda c: queue.set_state(c, maintenance=True))
        # Another server may have changed it, which this one learns within a second.
        services.live.read_now()
        answer = send(client)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "maintenance")
        assert "retry-after" in answer.headers
        assert client.get(f"/api/v1/jobs/{job}").status_code == 200


def test_a_repeated_request_makes_one_job(services: Services) -> None:
    with client_of(services, make_key(services, "me")) as client:
        client.headers["Idempotency-Key"] = "k1"
        first, again = send(client), send(client)
        assert first.json() == again.json() and again.status_code == 202
        other = send(client, factor="3")
        assert (other.status_code, other.json()["error"]["code"]) == (409, "key_reused")
        assert send(client, lane="interactive").status_code == 409
        client.headers["X-API-Key"] = make_key(services, "them")
        assert send(client).json()["job_id"] != first.json()["job_id"]
    assert count(services, jobs) == 2 and len(left_over(services)) == 2


def test_a_lane_before_others_needs_an_account(open_server: OpenServices) -> None:
    services = open_server(public=True)
    with client_of(services) as stranger:
        refused = send(stranger, lane="interactive")
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, "lane")
        assert send(stranger, lane="batch").json()["queue_position"] == 1
    with client_of(services, make_key(services, "me")) as client:
        assert send(client, lane="interactive").json()["queue_position"] == 1
        assert send(client).json()["queue_position"] == 3


def test_the_description_of_the_form_names_what_it_takes(services: Services) -> None:
    """Each field of the description is understood: none is answered as unknown or as not supported."""
    form = create_app(services).openapi()["paths"]["/api/v1/uploads"]["post"]["requestBody"]["content"]
    fields = form["multipart/form-data"]["schema"]["properties"].keys() - {"file", "callback_url", "email"}
    assert {"factor", "preset", "lane", "model", "width"} <= fields
    with client_of(services, make_key(services, "me")) as client:
        for field in fields:
            message = send(client, **{field: "?"}).json()["error"]["message"]
            assert not re.search(r"no option|does not|sends no", message), message


def test_names_that_file_systems_dislike(services: Services) -> None:
    names = [
        "CON.png", "a\\b\\c.png", "nul\x00l.png", "ü" * 300 + ".png", "..png.png", "<script>.png", "x" * 300 + ".cbz",
        "trailing. .png", "\u202egnp.png",
    ]  # fmt: skip
    with client_of(services, make_key(services, "me")) as client:
        assert send(client, *names).status_code == 202
    kept = services.database.read(lambda c: c.scalars(sa.select(files.c.name)).all())
    assert len({name.casefold() for name in kept}) == len(names)
    for name in kept:
        assert len(name.encode()) <= 190 and not set(name) & set('<>:"/\\|?*\0\u202e')
        assert Path(name).name == name and not name.startswith(".")
