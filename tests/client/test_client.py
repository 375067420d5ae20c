"""The Python client, both kinds of it, against a real server; and what it does when a server is not well."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install '.[server]'")
pytest.importorskip("httpx2", reason="the client is not installed: pip install '.[client]'")

import httpx2 as httpx
from PIL import Image

from comic_upscale.client import AsyncClient, Client, ClientError, Job, JobFailed
from comic_upscale.client.answers import TRIES, form_fields
from tests.client.conftest import closed_port
from tests.conftest import draw
from tests.server.running import RunningServer

posix = pytest.mark.skipif(os.name != "posix", reason="the worker is told to stop by signals")


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@posix
def test_upload_wait_and_fetch(server: RunningServer, tmp_path: Path) -> None:
    pages = [draw(tmp_path / f"{number}.png", number, size=(20, 24)) for number in (1, 2)]
    (tmp_path / "out").mkdir()
    with Client(server.api, server.key) as client:
        states: list[Job] = []
        job = client.wait(client.upload(pages[:1], factor=2, gate=False), on_state=states.append, every=0.1)
        assert (job.status, job.progress, job.pages_done, job.has_ended) == ("completed", 100.0, 1, True)
        assert states[-1] == job and {state.id for state in states} == {job.id}
        path = client.fetch(job, tmp_path / "out")
        assert path == tmp_path / "out" / "1.png" and size_of(path) == (40, 48)
        several = client.wait(client.upload([str(page) for page in pages], factor=1.5))
        book = client.fetch(several.id, tmp_path / "book.cbz", format="cbz")
        assert book.read_bytes()[:2] == b"PK"
        assert client.estimate([{"width": 512, "height": 768, "count": 3}], factor=2)["pages"] == 3
        assert client.health()["status"] == "ok"
        client.delete(job)
        with pytest.raises(ClientError, match="no such job") as caught:
            client.job(job.id)
        assert (caught.value.status, caught.value.code) == (404, "not_found")
        with pytest.raises(ClientError, match="no such job"):
            client.fetch(job, tmp_path / "out")
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["1.png"]


@posix
def test_the_asynchronous_client_does_the_same(server: RunningServer, tmp_path: Path) -> None:
    page = draw(tmp_path / "page.png", 3, size=(20, 24))

    async def run() -> tuple[Path, Path]:
        async with AsyncClient(server.api, server.key) as client:
            jobs = await asyncio.gather(*(client.upload([page], factor=factor) for factor in (2, 3)))
            done = await asyncio.gather(*(client.wait(job, every=0.1) for job in jobs))
            first = await client.fetch(done[0], tmp_path / "first.png")
            second = await client.fetch(done[1], tmp_path / "second.png")
            assert (await client.health())["status"] == "ok"
            assert (await client.estimate([{"width": 10, "height": 10}]))["pages"] == 1
            again = await client.wait(await client.again(done[0], factor="1.5"), every=0.1)
            assert again.raw["params"]["size"] == "scale 1.5"
            assert (await client.share(done[0])).url.startswith("/shared/")
            canceled = await client.upload([page], factor=2)
            assert (await client.cancel(canceled)).raw["cancel_requested"]
            await client.delete(done[0])
            with pytest.raises(ClientError, match="no such job"):
                await client.job(done[0].id)
            with pytest.raises(ClientError, match="no such job"):
                await client.fetch(done[0], tmp_path / "gone.png")
            return first, second

    first, second = asyncio.run(run())
    assert (size_of(first), size_of(second)) == ((40, 48), (60, 72))
    assert not (tmp_path / "gone.png").exists()


@posix
def test_watched_folders_jobs_presets_and_models(server: RunningServer) -> None:
    inbox = server.home / "library" / "Inbox"
    with Client(server.api, server.key) as client:
        watch = client.watch("Inbox", output="Done", settle=3600, factor=2)
        assert (watch.input, watch.output) == (str(inbox), str(inbox.parent / "Done"))
        assert watch.state == "watching" and watch.raw["settle"] == 3600 and watch.job_id is None
        with pytest.raises(ClientError, match="watched") as caught:
            client.watch("Inbox", output="Done")
        assert caught.value.status == 400
        assert client.pause_watch(watch).state == "paused"
        assert [each.id for each in client.watches()] == [watch.id]
        assert client.resume_watch(watch.id).state in ("watching", "waiting")
        client.unwatch(watch)
        assert client.watches() == []
        assert {"standard", "manga"} <= {each["name"] for each in client.presets()}
        assert "comic-fast-x2" in {each["name"] for each in client.models()}
        jobs = list(client.jobs())
        assert jobs == sorted(jobs, key=lambda job: job.raw["created_at"], reverse=True)

    async def run() -> None:
        async with AsyncClient(server.api, server.key) as client:
            watch = await client.watch("Inbox", settle=3600)
            assert (await client.pause_watch(watch)).state == "paused"
            assert (await client.resume_watch(watch)).state in ("watching", "waiting")
            assert [each.id for each in await client.watches()] == [watch.id]
            await client.unwatch(watch)
            with pytest.raises(ClientError, match="no such watched folder"):
                await client.pause_watch(watch)
            assert {each["name"] for each in await client.presets()} >= {"standard", "manga"}
            assert "comic-fast-x2" in {each["name"] for each in await client.models()}
            assert [job async for job in client.jobs()] == jobs

    asyncio.run(run())


def test_a_list_of_jobs_is_read_page_by_page() -> None:
    first = httpx.Response(200, json={"jobs": [JOB, JOB | {"job_id": "k"}], "next_cursor": "c/1"})
    transport = Answers(
        first, httpx.Response(200, json={"jobs": [JOB | {"job_id": "l"}], "next_cursor": None})
    )
    with Client("http://server.test", transport=transport) as client:
        assert [job.id for job in client.jobs("failed")] == ["j", "k", "l"]
    assert [str(request.url.query, "ascii") for request in transport.requests] == [
        "status=failed&limit=200", "status=failed&cursor=c%2F1&limit=200",
    ]  # fmt: skip


@posix
def test_a_job_that_fails_says_why(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with Client(server.api, server.key) as client:
        with pytest.raises(JobFailed) as caught:
            client.wait(client.upload([tmp_path / "broken.png"]), every=0.1)
        assert caught.value.job.status == "failed" and caught.value.code == "no_page"
        with pytest.raises(ClientError, match="between 1 and 100") as refused:
            client.upload([tmp_path / "broken.png"], format="webp", quality=200)
        assert (refused.value.status, refused.value.field) == (400, "quality")
    with Client(server.api, "cu_wrong") as stranger, pytest.raises(ClientError, match="valid API key"):
        stranger.health() and stranger.job("x")


class Answers(httpx.BaseTransport):
    """A connection that answers as it is told, one answer after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[Any] = []
        self.lock = threading.Lock()

    def handle_request(self, request: Any) -> Any:
        request.read()
        with self.lock:
            self.requests.append(request)
            answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


JOB = {
    "job_id": "j", "status": "queued", "progress": 0, "title": "t", "pages": {"total": None, "done": 0, "failed": 0},
    "result_url": None, "error": None,
}  # fmt: skip


def test_an_upload_whose_connection_breaks_is_sent_again_with_the_same_key(tmp_path: Path) -> None:
    page = draw(tmp_path / "page.png", 3, size=(20, 24))
    transport = Answers(
        httpx.ConnectError("refused"),
        httpx.Response(
            503, json={"error": {"code": "busy", "message": "Busy."}}, headers={"Retry-After": "0"}
        ),
        httpx.Response(202, json={"job_id": "j"}),
        httpx.Response(200, json=JOB),
    )
    with Client("http://server.test", "cu_x", transport=transport) as client:
        assert client.upload([page], factor=2).id == "j"
    uploads = transport.requests[:3]
    assert len({request.headers["idempotency-key"] for request in uploads}) == 1
    # The whole file each time.
    assert all(page.read_bytes() in request.content for request in uploads)


@pytest.mark.parametrize(
    ("answers", "message", "requests"),
    [
        ([httpx.Response(404, json={"error": {"code": "not_found", "message": "No."}})], "No.", 1),
        ([httpx.Response(500, text="<html>")], "answered 500", 1),
        ([httpx.Response(200, text="<html>")], "no answer of a comic-upscale server", 1),
        ([httpx.Response(200, json={"job_id": "j"})], "is missing", 1),
        ([httpx.Response(429, headers={"Retry-After": "3600"})], "answered 429", 1),
        ([httpx.Response(503, headers={"Retry-After": "0"})] * TRIES, "answered 503", TRIES),
    ],
)
def test_a_server_that_is_not_well_is_an_error_in_words(
    answers: list[Any], message: str, requests: int
) -> None:
    transport = Answers(*answers)
    with (
        Client("http://server.test", transport=transport) as client,
        pytest.raises(ClientError, match=message),
    ):
        client.job("j")
    assert len(transport.requests) == requests


class Torn(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of an answer whose connection breaks after some bytes."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"some bytes"
        raise httpx.ReadError("reset by peer")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def fetch(url: str, target: Path, transport: Any = None, *, is_async: bool) -> None:
    async def run() -> None:
        async with AsyncClient(url, transport=transport) as client:
            await client.fetch("j", target)

    if is_async:
        asyncio.run(run())
    else:
        with Client(url, transport=transport) as client:
            client.fetch("j", target)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_download_whose_connection_breaks_is_an_error_in_words(tmp_path: Path, is_async: bool) -> None:
    with pytest.raises(ClientError, match="cannot be reached"):
        fetch(f"http://127.0.0.1:{closed_port()}", tmp_path, is_async=is_async)
    for status in (200, 500):
        answer = httpx.MockTransport(lambda _request, status=status: httpx.Response(status, stream=Torn()))
        with pytest.raises(ClientError, match="the download broke: reset by peer"):
            fetch("http://server.test", tmp_path / "page.png", answer, is_async=is_async)
    assert list(tmp_path.iterdir()) == []


def test_a_deletion_whose_answer_was_lost_has_worked() -> None:
    def gone() -> httpx.Response:
        return httpx.Response(404, json={"error": {"code": "not_found", "message": "There is no such job."}})

    transport = Answers(httpx.ReadError("reset"), gone(), gone())
    with Client("http://server.test", transport=transport) as client:
        client.delete("j")
        # One that was never there is an error.
        with pytest.raises(ClientError, match="no such job"):
            client.delete("j")

    async def delete() -> None:
        answers: list[Any] = [httpx.ReadError("reset"), gone()]

        def answer(_request: Any) -> Any:
            given = answers.pop(0)
            if isinstance(given, Exception):
                raise given
            return given

        async with AsyncClient("http://server.test", transport=httpx.MockTransport(answer)) as client:
            await client.delete("j")

    asyncio.run(delete())


def test_waiting_has_a_limit_and_a_name_of_the_server_leads_nowhere(tmp_path: Path) -> None:
    waiting = Answers(*[httpx.Response(200, json=JOB)] * 3)
    with (
        Client("http://server.test", transport=waiting) as client,
        pytest.raises(TimeoutError, match="has not ended"),
    ):
        client.wait("j", timeout=0.0)
    redirect = httpx.Response(307, headers={"Location": "/files/token/..%2f..%2fevil"})
    with Client(
        "http://server.test", transport=Answers(redirect, httpx.Response(200, content=b"x"))
    ) as client:
        path = client.fetch("j", tmp_path)
    assert path.parent == tmp_path and path.read_bytes() == b"x"


def test_options_become_fields() -> None:
    assert form_fields({"factor": 2.5, "gate": False, "quality": None, "preset": "art"}) == {
        "factor": "2.5",
        "gate": "false",
        "preset": "art",
    }
