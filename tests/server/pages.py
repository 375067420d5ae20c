"""A client that uses the pages as a browser does: it keeps cookies, and sends forms with the token of its session."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2 as httpx
from fastapi.testclient import TestClient

from comic_upscale.server.app import create_app
from comic_upscale.server.services import Services
from tests.server.test_access import PASSWORD


@contextmanager
def pages_of(services: Services) -> Iterator[httpx.Client]:
    """A client of the pages of a server in this process, over TLS as behind a proxy."""
    with TestClient(
        create_app(services, pages=True), base_url="https://server.test", client=("192.0.2.1", 1234),
        raise_server_exceptions=False, follow_redirects=False,
    ) as client:  # fmt: skip
        yield client


def sign_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Client:
    answer = client.post("/sign-in", data={"username": name, "password": password})
    assert answer.status_code == 303, answer.text
    return client


def csrf_of(page: httpx.Response) -> str:
    """The token that the forms of a page send."""
    found = re.search(r'data-csrf="([0-9a-f]{64})"', page.text)
    assert found is not None, page.text
    return found[1]
