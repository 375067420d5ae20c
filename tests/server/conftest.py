"""A server in the process of the test, without a worker, for what needs none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install '.[server]'")
pytest.importorskip("httpx2", reason="httpx2 sends the requests of these tests")

import httpx2 as httpx
from argon2 import PasswordHasher
from fastapi.testclient import TestClient

from comic_upscale.server import accounts, keys, passwords
from comic_upscale.server.app import create_app
from comic_upscale.server.database.engine import Database
from comic_upscale.server.services import Services, open_database, open_services
from comic_upscale.server.settings import ServerSettings
from tests.server.postgres import Cluster, missing, running_cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL of these tests' own, or a skip."""
    if reason := missing():
        pytest.skip(reason)
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> ServerSettings:
    """The settings of a server, on each database."""
    url = None
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("postgres")
        url = cluster.new_database()
    return ServerSettings(data=tmp_path / "data", database=url)


@pytest.fixture
def database(settings: ServerSettings) -> Iterator[Database]:
    """A database with the schema of this version, on each kind of database."""
    database = open_database(settings, migrating=True)
    yield database
    database.close()


@pytest.fixture(scope="session", autouse=True)
def quick_hashes() -> Iterator[None]:
    """A password costs 64 MiB and a tenth of a second, which is right for a server and dear for a thousand tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "PasswordHasher", lambda: PasswordHasher(1, 8, 1))
        yield


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with the schema of this version and nothing else."""
    settings = ServerSettings(data=tmp_path_factory.mktemp("migrated"))
    open_database(settings, migrating=True).close()
    (path,) = settings.data.iterdir()
    return path


OpenServices = Callable[..., Services]


@pytest.fixture
def open_server(tmp_path: Path, migrated: Path) -> Iterator[OpenServices]:
    """Opens the parts of a server with changed settings."""
    opened: list[Services] = []

    def open_it(**changes: object) -> Services:
        # A test must not depend on how full the tester's disk is.
        settings = ServerSettings(**{"data": tmp_path / "data", "min_free_disk": 0.0, **changes})  # type: ignore[arg-type]
        if settings.database is None and not settings.data.exists():
            # The migrations have tests of their own.
            settings.data.mkdir(parents=True, mode=0o700)
            shutil.copyfile(migrated, settings.data / migrated.name)
        opened.append(open_services(settings))
        return opened[-1]

    yield open_it
    for services in opened:
        services.close()


@pytest.fixture
def services(open_server: OpenServices) -> Services:
    return open_server()


def make_key(services: Services, name: str, role: accounts.Role = "user") -> str:
    """Return a new key of a user, who is created if missing."""

    def create(connection: object) -> str:
        user_id = accounts.ensure_user(connection, name, role)  # type: ignore[arg-type]
        return keys.create_key(connection, user_id, name, accounts.scopes_of(role)).text  # type: ignore[arg-type]

    return services.database.write(create)


@contextmanager
def client_of(
    services: Services, key: str | None = None, address: str = "192.0.2.1"
) -> Iterator[httpx.Client]:
    """A client of a server in this process, over TLS as behind a proxy."""
    headers = {} if key is None else {"X-API-Key": key}
    with TestClient(
        create_app(services), base_url="https://server.test", headers=headers, client=(address, 1234),
        raise_server_exceptions=False, follow_redirects=False,
    ) as client:  # fmt: skip
        yield client
