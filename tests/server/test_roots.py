"""Folders of the server's machine: the check of their links passes over what the run passes over."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from comic_upscale.commands.serve import say_missing_roots
from comic_upscale.errors import SettingsError
from comic_upscale.server.roots import check_links
from comic_upscale.server.settings import ServerSettings
from tests.jobs.test_run import as_nobody

pytestmark = pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that every user of the machine may use."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve()
        path.chmod(0o777)
        yield path


@pytest.fixture
def locked(root: Path) -> Iterator[Path]:
    """A folder of the library that cannot be read."""
    folder = root / "library" / "locked"
    (folder / "inner").mkdir(parents=True)
    folder.chmod(0)
    yield folder
    folder.chmod(0o755)


def test_a_folder_that_cannot_be_read_is_passed_over(root: Path, locked: Path) -> None:
    (root / "library" / "to a locked place").symlink_to(locked / "inner")
    (root / "library" / "to the locked folder").symlink_to(locked)
    with as_nobody():
        check_links([root], root / "library")


def test_a_link_beside_it_is_still_refused(root: Path, locked: Path) -> None:
    (root / "library" / "pages").mkdir()
    (root / "library" / "pages" / "out").symlink_to("/")
    with as_nobody(), pytest.raises(SettingsError, match="is not below a folder"):
        check_links([root], root / "library")


def test_what_is_gone_is_passed_over(root: Path) -> None:
    (root / "library").mkdir()
    (root / "library" / "to nowhere").symlink_to(root / "gone")
    check_links([root], root / "library")
    check_links([root], root / "gone")


def test_a_file_is_no_folder(root: Path) -> None:
    (root / "page.png").write_bytes(b"")
    check_links([root], root / "page.png")


def test_a_root_that_is_not_there_is_said_and_may_come_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "here").mkdir()
    roots = (str(tmp_path / "here"), str(tmp_path / "drive"), "s3://bucket/comics")
    say_missing_roots(ServerSettings(data=tmp_path, roots=roots))
    (told,) = caplog.messages
    assert str(tmp_path / "drive") in told and "is not there" in told
