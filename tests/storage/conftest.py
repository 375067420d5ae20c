"""The stores that there are, each to be held to what its interface promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from comic_upscale.storage.base import OutputStore, SourceStore
from comic_upscale.storage.local import LocalOutputStore, LocalSourceStore
from tests.storage.memory import MemoryOutputStore, MemorySourceStore

MakeSources = Callable[[dict[str, bytes]], SourceStore]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An output folder, as a run finds it."""
    (tmp_path / "out" / ".comic-upscale").mkdir(parents=True)
    return tmp_path / "out"


@pytest.fixture(params=["local", "memory"])
def outputs(request: pytest.FixtureRequest, folder: Path) -> OutputStore:
    """An output store, empty and prepared."""
    store: OutputStore = LocalOutputStore(folder) if request.param == "local" else MemoryOutputStore()
    store.prepare()
    return store


@pytest.fixture(params=["local", "memory"])
def make_sources(request: pytest.FixtureRequest, tmp_path: Path) -> MakeSources:
    """Makes a source store that holds some objects."""

    def make(objects: dict[str, bytes]) -> SourceStore:
        if request.param == "memory":
            return MemorySourceStore(objects)
        root = tmp_path / "in"
        root.mkdir()
        for name, data in objects.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return LocalSourceStore(root)

    return make


def names_in(folder: Path) -> list[str]:
    """Everything below a folder that is no folder, hidden files too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
