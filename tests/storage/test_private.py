"""State files: nobody else reads them, a group that shares its files works on one job, and no link is followed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from comic_upscale.errors import LedgerBusyError, OutputError
from comic_upscale.ledger.lock import hold_job
from comic_upscale.ledger.recent import remember_ledger
from comic_upscale.ledger.writer import Ledger
from comic_upscale.settings.paths import default_ledger

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")

OWNER, COLLEAGUE, GROUP = 12_345, 12_346, 23_456


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of a group, that every user of the machine may reach."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "out").mkdir()
        if os.geteuid() == 0:
            os.chown(folder / "out", OWNER, GROUP)
        (folder / "out").chmod(0o2775)
        yield folder / "out"


@contextlib.contextmanager
def as_user(uid: int, umask: int) -> Iterator[None]:
    """As a user of the group, with this mask; only root can become another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as two users")
    groups, before = os.getgroups(), os.umask(umask)
    os.setgroups([GROUP])
    os.setegid(GROUP)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        os.umask(before)


def work(output: Path) -> None:
    """What each run does with its state files."""
    ledger = default_ledger(output)
    with hold_job(output, ledger):
        opened = Ledger(ledger)
        opened.open_job(
            input=output, output=output, fingerprint="f", settings="{}", model="m", model_sha256="0" * 64
        )
        opened.close()


def modes(folder: Path) -> dict[str, int]:
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    return {**found, ".": stat.S_IMODE(folder.stat().st_mode) & 0o777}


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o000, 0o077])
def test_other_users_read_no_state_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        work(tmp_path / "out")
        remember_ledger(tmp_path / "state", default_ledger(tmp_path / "out"))
    finally:
        os.umask(before)
    found = modes(tmp_path / "out" / ".comic-upscale")
    assert {"ledger.sqlite3", "run.lock"} <= found.keys()
    for name, mode in (found | modes(tmp_path / "state")).items():
        assert not mode & 0o007, f"{name}: {mode:o}"
        assert umask in (0o002, 0o000) or not mode & 0o070, f"{name}: {mode:o}"


def test_an_older_lock_is_closed_to_other_users(tmp_path: Path) -> None:
    (tmp_path / ".comic-upscale").mkdir()
    lock = tmp_path / ".comic-upscale" / "run.lock"
    lock.touch()
    lock.chmod(0o644)
    work(tmp_path)
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def test_who_may_not_read_a_lock_cannot_hold_it(shared: Path) -> None:
    with as_user(OWNER, 0o022):
        work(shared)
    with (
        as_user(65_534, 0o022),
        pytest.raises(PermissionError),
        (shared / ".comic-upscale" / "run.lock").open(),
    ):
        pass


def test_a_colleague_of_the_group_continues(shared: Path) -> None:
    with as_user(OWNER, 0o002):
        work(shared)
    with as_user(COLLEAGUE, 0o002):
        work(shared)
    with as_user(OWNER, 0o002):
        work(shared)
        with (shared / ".comic-upscale" / "run.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(LedgerBusyError):
                work(shared)


def test_a_colleague_without_permission_learns_what_to_do(shared: Path) -> None:
    """A ledger of an earlier version: SQLite made it readable for the group, and no more."""
    with as_user(OWNER, 0o002):
        (shared / ".comic-upscale").mkdir()
        with closing(sqlite3.connect(default_ledger(shared))) as connection:
            connection.execute("create table anything (x)")
        default_ledger(shared).chmod(0o644)
    with (
        as_user(COLLEAGUE, 0o002),
        pytest.raises(OutputError, match=rf"belongs to (user )?{OWNER}.*chmod g\+rw"),
    ):
        work(shared)
    with as_user(OWNER, 0o022):
        (shared / ".comic-upscale" / "run.lock").unlink(missing_ok=True)
        (shared / ".comic-upscale" / "run.lock").touch(0o600)
    with as_user(COLLEAGUE, 0o002), pytest.raises(OutputError, match=rf"belongs to (user )?{OWNER}"):
        work(shared)


@pytest.mark.parametrize(
    "name",
    ["run.lock", "ledger.sqlite3", "ledger.sqlite3.lock", "ledger.sqlite3-wal", "ledger.sqlite3-journal"],
)
def test_a_link_under_the_name_of_a_state_file_is_not_followed(tmp_path: Path, name: str) -> None:
    """It came with an archive, whose files all belong to the user."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "out" / ".comic-upscale").mkdir(parents=True)
    (tmp_path / "out" / ".comic-upscale" / name).symlink_to(victim)
    with pytest.raises(OutputError, match="is a link: remove it"):
        work(tmp_path / "out")
    assert victim.read_bytes() == b"precious"


def test_a_link_to_nothing_makes_no_file(tmp_path: Path) -> None:
    (tmp_path / "out" / ".comic-upscale").mkdir(parents=True)
    default_ledger(tmp_path / "out").symlink_to(tmp_path / "elsewhere.sqlite3")
    with pytest.raises(OutputError, match="is a link"):
        work(tmp_path / "out")
    assert not (tmp_path / "elsewhere.sqlite3").exists()


def test_a_ledger_whose_place_the_user_names_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "l.sqlite3").touch()
    (tmp_path / "named.sqlite3").symlink_to(tmp_path / "real" / "l.sqlite3")
    with hold_job(tmp_path / "out", tmp_path / "named.sqlite3"):
        Ledger(tmp_path / "named.sqlite3").close()
    assert (tmp_path / "real" / "l.sqlite3").stat().st_size
