"""The fixture of the room: a server that misbehaves on request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.models.misbehaving_server import Server, running


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as server:
        yield server
