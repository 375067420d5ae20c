"""A server with a root, and a folder of it that is watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from comic_upscale.server.services import Services
from tests.conftest import draw
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.watches.watching import Clock, Watch, begin


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "Inbox").mkdir(parents=True)
    draw(tmp_path / "root" / "Inbox" / "1.png", 1, size=(40, 60))
    return tmp_path / "root"


@pytest.fixture
def services(open_server: OpenServices, root: Path) -> Services:
    return open_server(roots=(str(root),), library_users=("bob",))


@pytest.fixture
def boss(services: Services) -> Iterator[httpx.Client]:
    with client_of(services, make_key(services, "boss", "admin")) as client:
        yield client


@pytest.fixture
def watch(services: Services, boss: httpx.Client) -> Watch:
    """A server that watches a folder with a page."""
    begin(boss)
    return Watch(services, Clock())
