"""One server for all tests of the client."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install '.[server]'")
pytest.importorskip("httpx2", reason="the client is not installed: pip install '.[client]'")

from tests.server.running import RunningServer


def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    home = tmp_path_factory.mktemp("server")
    (home / "library" / "Inbox").mkdir(parents=True)
    # A fixed port, so that clients find the server again after a restart.
    options = "--device", "cpu", "--api-port", closed_port(), "--root", home / "library"
    server = RunningServer(home / "data", home, *options)
    server.start()
    yield server
    server.kill()
