"""The stores that there are, each to be held to what its interface promises."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comic_upscale.settings.places import Place
from comic_upscale.storage.base import OutputStore, SourceStore
from comic_upscale.storage.buckets import Bucket
from comic_upscale.storage.local import LocalOutputStore, LocalSourceStore
from comic_upscale.storage.object_outputs import ObjectOutputStore
from comic_upscale.storage.object_sources import ObjectSourceStore
from tests.server import azurite, buckets
from tests.storage.memory import MemoryOutputStore, MemorySourceStore

MakeSources = Callable[[dict[str, bytes]], SourceStore]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An output folder, as a run finds it."""
    (tmp_path / "out" / ".comic-upscale").mkdir(parents=True)
    return tmp_path / "out"


BUCKETS = ["moto", "rclone", "google", "azurite"]
OFTEN = ["moto", "rclone"]
"""For suites with many tests. Google's dialect differs from Amazon's in little."""
if os.environ.get("COMIC_UPSCALE_TEST_LONG"):
    OFTEN.append("google")
if azurite.program() is not None:
    OFTEN.append("azurite")
STORES = ["local", "memory", *OFTEN]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], buckets.Bucket]]:
    """Returns the running server of a kind of `BUCKETS`; starts it for the first test."""
    running: dict[str, buckets.Bucket] = {}
    with contextlib.ExitStack() as stack:

        def start(kind: str) -> buckets.Bucket:
            if reason := buckets.missing(kind):
                pytest.skip(reason)
            if kind not in running:
                folder = tmp_path_factory.mktemp(kind)
                running[kind] = stack.enter_context(buckets.running_bucket(kind, folder))
            return running[kind]

        yield start


OpenBucket = Callable[[str], Path]


@pytest.fixture
def open_bucket(
    servers: Callable[[str], buckets.Bucket], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> OpenBucket:
    """Returns the address of a prefix of this test's own, on a server of a kind. The variables lead to that server."""

    def open(kind: str) -> Path:
        server = servers(kind)
        for name, value in server.variables().items():
            monkeypatch.setenv(name, value)
        return Path(f"{server.scheme}://{server.name}/{tmp_path.name}")

    return open


@pytest.fixture(params=STORES)
def outputs(request: pytest.FixtureRequest, folder: Path) -> OutputStore:
    """An output store, empty and prepared."""
    store: OutputStore
    if request.param == "local":
        store = LocalOutputStore(folder)
    elif request.param == "memory":
        store = MemoryOutputStore()
    else:
        store = ObjectOutputStore(request.getfixturevalue("open_bucket")(request.param) / "out")
    store.prepare()
    return store


@pytest.fixture(params=STORES)
def make_sources(request: pytest.FixtureRequest, tmp_path: Path) -> MakeSources:
    """Makes a source store that holds some objects."""

    def make(objects: dict[str, bytes]) -> SourceStore:
        if request.param == "memory":
            return MemorySourceStore(objects)
        if request.param in BUCKETS:
            address = request.getfixturevalue("open_bucket")(request.param) / "in"
            for name, data in objects.items():
                bucket_of(address).put(name, data)
            return ObjectSourceStore(address)
        root = tmp_path / "in"
        root.mkdir()
        for name, data in objects.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return LocalSourceStore(root)

    return make


def bucket_of(address: Path) -> Bucket:
    """What is below an address."""
    kind, name, *parts = address.parts
    return Bucket(Place(kind.removesuffix(":"), name, "/".join(parts)))


def names_in(folder: Path) -> list[str]:
    """Everything below a folder that is no folder, hidden files too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
