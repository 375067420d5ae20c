"""Large files from both clients: broken connections, a killed server, and a second client in between."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install '.[server]'")
pytest.importorskip("httpx2", reason="the client is not installed: pip install '.[client]'")

import httpx2 as httpx

from comic_upscale.client import AsyncClient, Client, ClientError, Job, resumable
from tests.client.test_client import Answers, posix
from tests.server.running import RunningServer


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "RESUMABLE_FROM", 1)
    monkeypatch.setattr(resumable, "PART_BYTES", 100_000)


@pytest.fixture
def paused(server: RunningServer) -> Iterator[RunningServer]:
    """The server, without a worker meanwhile."""
    with server.client() as admin:
        admin.post("/api/v1/admin/queue/pause").raise_for_status()
        yield server
        for job in admin.get("/api/v1/jobs").json()["jobs"]:
            admin.delete(f"/api/v1/jobs/{job['job_id']}")
        admin.post("/api/v1/admin/queue/resume").raise_for_status()


class Breaking(httpx.HTTPTransport):
    """A connection that breaks in the middle of some requests with bytes."""

    def __init__(self, server: RunningServer) -> None:
        super().__init__()
        self.server, self.count, self.seen = server, 0, list[int]()

    def handle_request(self, request: Any) -> Any:
        if request.method != "PATCH":
            return super().handle_request(request)
        self.count += 1
        if self.count not in (2, 4):
            return super().handle_request(request)
        with self.half(request) as sent:
            if self.count == 2:
                # Another client cannot come in between.
                other = httpx.request(
                    "PATCH", str(request.url), headers=plain(request), content=b"other", timeout=60
                )
                self.seen.append(other.status_code)
            else:
                self.server.kill()
                sent.close()
                self.server.start()
        raise httpx.WriteError("broken pipe")

    @contextlib.contextmanager
    def half(self, request: Any) -> Iterator[socket.socket]:
        """Send half of a request, and close the connection at the end."""
        url, body = urlsplit(str(request.url)), request.read()
        lines = [f"PATCH {url.path} HTTP/1.1", *(f"{name}: {text}" for name, text in request.headers.items())]
        assert url.hostname is not None and url.port is not None
        with socket.create_connection((url.hostname, url.port)) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[: len(body) // 2])
            with httpx.Client() as client:
                # The server has begun to read it: the upload is locked.
                headers = plain(request) | {"Upload-Offset": "0"}
                for _ in range(1000):
                    answer = client.patch(str(request.url), headers=headers, content=b"")
                    if answer.status_code == 423:
                        break
            yield connection


def plain(request: Any) -> dict[str, str]:
    """The headers of a request that say nothing about its body's length."""
    return {name: text for name, text in request.headers.items() if name not in ("content-length", "host")}


def original(server: RunningServer, job: Job) -> bytes:
    with server.client() as client:
        return client.get(str(job.raw["original_url"])).raise_for_status().content


@posix
@pytest.mark.usefixtures("small_parts")
def test_a_large_file_survives_broken_connections_and_a_killed_server(
    paused: RunningServer, tmp_path: Path
) -> None:
    data = random.Random(3).randbytes(550_000)
    (tmp_path / "büch.cbz").write_bytes(data)
    (tmp_path / "page.png").write_bytes(b"small")
    transport = Breaking(paused)
    with Client(paused.api, paused.key, transport=transport) as client:
        job = client.upload([tmp_path / "büch.cbz", tmp_path / "page.png"], factor=3)
        assert (job.raw["params"]["size"], job.title) == ("scale 3", "büch.cbz and 1 more")
    assert transport.seen == [423] and transport.count > 6
    with zipfile.ZipFile(io.BytesIO(original(paused, job))) as archive:
        assert [archive.read(name) for name in archive.namelist()] == [data, b"small"]


@posix
@pytest.mark.usefixtures("small_parts")
def test_the_asynchronous_client_sends_large_files_at_once(paused: RunningServer, tmp_path: Path) -> None:
    books = [random.Random(number).randbytes(250_000) for number in range(2)]
    for number, data in enumerate(books):
        (tmp_path / f"{number}.cbz").write_bytes(data)

    async def run() -> list[Job]:
        async with AsyncClient(paused.api, paused.key) as client:
            with pytest.raises(ClientError, match="at most 8") as refused:
                await client.upload([tmp_path / "0.cbz"], factor=99)
            assert refused.value.field == "factor"
            with pytest.raises(FileNotFoundError):
                await client.upload([tmp_path / "missing.cbz"])
            return await asyncio.gather(*(client.upload([tmp_path / f"{n}.cbz"]) for n in range(2)))

    assert [original(paused, job) for job in asyncio.run(run())] == books


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([httpx.Response(413, json={"error": {"code": "too_large", "message": "No."}})], "No."),
        ([httpx.Response(201)], "no answer of a comic-upscale server"),
        ([httpx.ConnectError("refused")] * 9, "cannot be reached"),
        ([httpx.Response(429, headers={"Retry-After": "3600"})], "answered 429"),
        (
            [
                httpx.Response(201, headers={"Location": "/api/v1/uploads/resumable/u"}),
                httpx.ReadError("reset"), httpx.Response(404),
            ],
            "no longer has this upload",
        ),
    ],
)  # fmt: skip
def test_a_server_that_is_not_well_ends_the_upload_in_words(
    tmp_path: Path, answers: list[Any], message: str
) -> None:
    (tmp_path / "book.cbz").write_bytes(b"x" * 10)
    with (
        Client("http://server.test", transport=Answers(*answers)) as client,
        pytest.raises(ClientError, match=message),
    ):
        client.upload([tmp_path / "book.cbz"], patience=1)
