"""What is settled before anything is imported."""

from __future__ import annotations

import ctypes.util
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from comic_upscale import start


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables of a Windows that has the library and finds no other."""
    library = tmp_path / "System32" / "archiveint.dll"
    library.parent.mkdir()
    library.touch()
    variables = {"SYSTEMROOT": str(tmp_path)}
    monkeypatch.setattr(start, "os", SimpleNamespace(**{**vars(os), "name": "nt", "environ": variables}))
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    return variables


def test_the_libarchive_of_windows_is_named(environment: dict[str, str]) -> None:
    start.name_libarchive()
    assert Path(environment["LIBARCHIVE"]) == Path(environment["SYSTEMROOT"], "System32", "archiveint.dll")


def test_another_libarchive_comes_first(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    environment["LIBARCHIVE"] = "own.dll"
    start.name_libarchive()
    assert environment.pop("LIBARCHIVE") == "own.dll"
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: "archive.dll")
    start.name_libarchive()
    assert "LIBARCHIVE" not in environment


def test_none_is_named_where_there_is_none(environment: dict[str, str]) -> None:
    Path(environment["SYSTEMROOT"], "System32", "archiveint.dll").unlink()
    start.name_libarchive()
    assert "LIBARCHIVE" not in environment
