"""Pages that `/convert` sends back as they came: how often it reads one for nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2 as httpx

from comic_upscale.server.app import create_app
from comic_upscale.server.services import Services
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.test_uploads import PNG


def convert(client: httpx.Client, query: str = "", **headers: str) -> httpx.Response:
    return client.post(f"/convert{query}", files={"image": ("page.png", PNG)}, headers=headers)


def state_of(answer: httpx.Response) -> tuple[int, str, bytes]:
    return answer.status_code, answer.headers["x-comic-upscale"], answer.content


def ask_without_sending(services: Services) -> list[Any]:
    """Ask for a conversion with a body that never comes, and return what the application sends."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"server.test"), (b"content-type", b"multipart/form-data; boundary=b")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "https",
        "path": "/convert", "raw_path": b"/convert", "query_string": b"key=cu_wrong", "root_path": "",
        "headers": headers, "client": ("192.0.2.1", 1), "server": ("server.test", 443),
    }  # fmt: skip
    asyncio.run(create_app(services)(scope, receive, send))
    return sent


def test_strangers_send_pages_for_nothing_only_so_often(open_server: OpenServices) -> None:
    services = open_server(rate_limit=3)
    with client_of(services) as stranger:
        assert state_of(convert(stranger)) == (200, "original", PNG)
        assert state_of(convert(stranger, "?key=cu_wrong")) == (200, "original", PNG)
        # A browser that another page leads here.
        crossing = {"Authorization": "Basic eDp5", "Sec-Fetch-Site": "cross-site"}
        assert state_of(convert(stranger, **crossing)) == (200, "original", PNG)
        for headers in ({}, crossing):
            answer = convert(stranger, **headers)
            assert state_of(answer) == (429, "error", b"") and int(answer.headers["retry-after"]) > 0
    begin, _ = ask_without_sending(services)
    assert begin["status"] == 429
    with client_of(services, address="192.0.2.2") as other:
        assert state_of(convert(other)) == (200, "original", PNG)


def test_a_user_with_too_many_requests_gets_the_pages_back(open_server: OpenServices) -> None:
    services = open_server(rate_limit=2)
    with client_of(services, make_key(services, "me")) as client:
        reasons = []
        for _ in range(4):
            answer = convert(client, "?factor=99")
            assert state_of(answer) == (200, "original", PNG)
            reasons.append(answer.headers["x-comic-upscale-reason"].split(":")[0])
        assert reasons[2:] == ["Too many requests"] * 2 and "Too many requests" not in reasons[:2]
