"""The marker folder: made by us, or trusted only where nobody else can have put it there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from comic_upscale.errors import OutputError
from comic_upscale.ledger.lock import hold_job
from comic_upscale.settings.paths import default_ledger
from comic_upscale.storage.marker import make_marker_folder
from tests.jobs.test_run import as_nobody, open_folder

__all__ = ["open_folder"]

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")


def test_it_is_made_once_and_known_again(tmp_path: Path) -> None:
    marker = make_marker_folder(tmp_path / "a" / "out")
    assert marker == tmp_path / "a" / "out" / ".comic-upscale"
    assert marker.is_dir()
    assert make_marker_folder(tmp_path / "a" / "out") == marker


@needs_links
@pytest.mark.parametrize("target", ["folder", "nothing"])
def test_a_link_is_no_marker_folder(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".comic-upscale").symlink_to(tmp_path / target)
    with (
        pytest.raises(OutputError, match="is a link and not a folder"),
        hold_job(tmp_path / "out", default_ledger(tmp_path / "out")),
    ):
        pass
    assert not list((tmp_path / "folder").iterdir())
    assert not (tmp_path / "nothing").exists()


def test_a_file_is_no_marker_folder(tmp_path: Path) -> None:
    (tmp_path / ".comic-upscale").write_bytes(b"")
    with pytest.raises(OutputError, match="is a file and not a folder"):
        make_marker_folder(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no owners by number")
def test_whose_it_may_be(open_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make folders of other users")
    owner, stranger, nobody = 12_345, 12_346, 65_534
    marker = open_folder / ".comic-upscale"
    marker.mkdir()
    os.chown(open_folder, owner, -1)
    for whose in (owner, nobody, 0):
        os.chown(marker, whose, -1)
        with as_nobody():
            assert make_marker_folder(open_folder) == marker
    os.chown(marker, stranger, -1)
    with as_nobody(), pytest.raises(OutputError, match="neither you nor the owner"):
        make_marker_folder(open_folder)
    with pytest.raises(OutputError, match="neither you nor the owner"):
        make_marker_folder(open_folder)


@needs_links
def test_a_lock_that_is_a_link_empties_no_file(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_bytes(b"precious")
    marker = make_marker_folder(tmp_path / "out")
    for name in ("run.lock", "ledger.sqlite3.lock"):
        (marker / name).symlink_to(precious)
        with pytest.raises(OutputError), hold_job(tmp_path / "out", default_ledger(tmp_path / "out")):
            pass
        (marker / name).unlink()
    assert precious.read_bytes() == b"precious"
