"""What a folder of this machine can do to an output: killed, full, locked, moved, and prepared by somebody else."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comic_upscale.errors import OutputError, PageError
from comic_upscale.storage import parts
from comic_upscale.storage.atomic import write_whole
from comic_upscale.storage.local import LocalOutputStore
from tests.conftest import REPOSITORY
from tests.execution.ssh.conftest import small_disk
from tests.jobs.test_run import as_nobody, open_folder
from tests.storage.conftest import names_in
from tests.storage.ways import build, copy, put
from tests.storage.windows import Windows

__all__ = ["open_folder"]

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
needs_modes = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no modes of files")

Write = Callable[[LocalOutputStore, str, bytes], None]


WAYS = pytest.mark.parametrize("write", [put, build, copy])


@pytest.fixture
def store(folder: Path) -> LocalOutputStore:
    store = LocalOutputStore(folder)
    store.prepare()
    return store


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A file of the user's that must be the same in the end."""
    path = tmp_path / "precious.txt"
    path.write_bytes(b"precious")
    yield path
    assert path.read_bytes() == b"precious"


# Killed

PROGRAM = """
import os, signal, sys
from pathlib import Path
from comic_upscale.storage import parts
from comic_upscale.storage.local import LocalOutputStore
from tests.storage.ways import build, copy, put
from tests.storage.windows import Windows

way, moment, folder = sys.argv[1:]

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "before the flush":
    os.fsync = die
elif moment == "between write and rename":
    parts._rename = die
else:
    parts.flush_folder = die
{"put": put, "build": build, "copy": copy}[way](LocalOutputStore(Path(folder)), "a/1.png", b"new" * 100_000)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is for POSIX")
@pytest.mark.parametrize("way", ["put", "build", "copy"])
@pytest.mark.parametrize("moment", ["before the flush", "between write and rename", "after the rename"])
def test_a_kill_leaves_the_old_or_the_new_whole_and_the_rest_is_swept(
    store: LocalOutputStore, folder: Path, way: str, moment: str
) -> None:
    put(store, "a/1.png", b"old")
    put(store, "a/2.png", b"another")
    killed = subprocess.run([sys.executable, "-c", PROGRAM, way, moment, str(folder)], cwd=REPOSITORY)
    assert killed.returncode == -signal.SIGKILL
    renamed = moment == "after the rename"
    assert store.read("a/1.png") == (b"new" * 100_000 if renamed else b"old")
    assert names_in(folder) == [*([] if renamed else ["a/.comic-upscale-1.part"]), "a/1.png", "a/2.png"]
    LocalOutputStore(folder).sweep([("a/1.png", 1)])
    assert names_in(folder) == ["a/1.png", "a/2.png"]
    put(store, "a/1.png", b"done again")
    assert store.read("a/1.png") == b"done again"


def test_a_sweep_removes_the_parts_of_its_tokens_alone(store: LocalOutputStore, folder: Path) -> None:
    names = [
        ".comic-upscale-1.part", ".comic-upscale-1-0a1b2c3d.part", ".comic-upscale-12.part", ".comic-upscale-1.txt",
        "1.part", "1.png",
    ]  # fmt: skip
    for name in names:
        (folder / name).write_bytes(b"x")
    store.sweep([("1.png", 1), ("none/2.png", 2)])
    assert names_in(folder) == sorted(names[2:])


# Full, locked, too long, moved


@WAYS
def test_a_full_disk_is_told_and_leaves_what_was_there(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder, "256k"):
        (folder / ".comic-upscale").mkdir()
        store = LocalOutputStore(folder)
        store.prepare()
        write(store, "1.png", b"x" * 60_000)
        before = names_in(folder)
        for name in ("1.png", "a/2.png"):
            with pytest.raises(OutputError, match="Free some space"):
                write(store, name, b"y" * 300_000)
        assert names_in(folder) == before
        assert store.read("1.png") == b"x" * 60_000
        write(store, "a/2.png", b"y" * 60_000)
        assert store.read("a/2.png") == b"y" * 60_000


@WAYS
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_flush_that_fails_hits_every_page(
    store: LocalOutputStore, folder: Path, monkeypatch: pytest.MonkeyPatch, write: Write, number: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(parts.os, "fsync", fail)
    with pytest.raises(OutputError, match=os.strerror(number)):
        write(store, "1.png", b"x")
    assert names_in(folder) == []


@WAYS
def test_a_name_too_long_is_the_failure_of_one_page(
    store: LocalOutputStore, folder: Path, write: Write
) -> None:
    with pytest.raises(PageError) as caught:
        write(store, f"a/{'n' * 300}.png", b"x")
    assert caught.value.kind == "output"
    assert names_in(folder) == []
    write(store, f"a/{'n' * 240}.png", b"x")
    assert len(names_in(folder)) == 1


@needs_modes
@WAYS
def test_a_folder_that_may_not_be_written_fails_its_pages_alone(open_folder: Path, write: Write) -> None:
    with as_nobody():
        for name in (".comic-upscale", "locked", "open"):
            (open_folder / name).mkdir()
        (open_folder / "locked").chmod(0o555)
        store = LocalOutputStore(open_folder)
        store.prepare()
        with pytest.raises(PageError) as caught:
            write(store, "locked/1.png", b"x")
        assert caught.value.kind == "output"
        assert "Permission denied" in caught.value.reason
        write(store, "open/1.png", b"x")
    assert names_in(open_folder) == ["open/1.png"]


@needs_modes
def test_an_output_folder_that_may_not_be_written_is_told_at_once(open_folder: Path) -> None:
    folder = open_folder / "out"
    with as_nobody():
        (folder / ".comic-upscale").mkdir(parents=True)
        folder.chmod(0o555)
        with pytest.raises(OutputError, match="permissions"):
            LocalOutputStore(folder).prepare()


@WAYS
@pytest.mark.parametrize("name", ["1.png", "a/1.png"])
def test_a_folder_that_was_moved_is_not_made_again(
    store: LocalOutputStore, folder: Path, write: Write, name: str
) -> None:
    folder.rename(folder.with_name("moved"))
    with pytest.raises(OutputError, match="was moved, or its drive"):
        write(store, name, b"x")
    assert not folder.exists()
    # Another one in its place.
    (folder / ".comic-upscale").mkdir(parents=True)
    with pytest.raises(OutputError, match="was moved, or its drive"):
        write(store, name, b"x")
    assert names_in(folder) == []


@WAYS
def test_a_folder_that_moves_while_an_output_is_written_is_not_made_again(
    store: LocalOutputStore, folder: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    check = LocalOutputStore.check

    def move_after(self: LocalOutputStore) -> None:
        check(self)
        folder.rename(folder.with_name("moved"))

    monkeypatch.setattr(LocalOutputStore, "check", move_after)
    with pytest.raises(OutputError, match="was moved, or its drive"):
        write(store, "a/1.png", b"x")
    assert not folder.exists()


def test_a_store_without_its_marker_is_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="was moved, or its drive"):
        LocalOutputStore(tmp_path).prepare()


def test_folders_are_made_and_what_stands_in_their_way_is_told(store: LocalOutputStore, folder: Path) -> None:
    put(store, "a/b/c/1.png", b"x")
    put(store, "file", b"x")
    with pytest.raises(PageError) as caught:
        put(store, "file/1.png", b"x")
    assert caught.value.kind == "output"
    (folder / "1.png").mkdir()
    with pytest.raises(PageError) as caught:
        put(store, "1.png", b"x")
    assert caught.value.kind == "output"
    assert names_in(folder) == ["a/b/c/1.png", "file"]


# At one time


def test_concurrent_puts_leave_nothing_behind(store: LocalOutputStore, folder: Path) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(store.put("a/1.png", bytes([n]) * 200_000, 1) for n in range(24)))

    asyncio.run(all_at_once())
    assert names_in(folder) == ["a/1.png"]
    assert len(set(store.read("a/1.png"))) == 1


# In a folder that somebody else has prepared


@needs_links
@WAYS
def test_a_link_under_the_name_of_a_part_is_not_followed(
    store: LocalOutputStore, folder: Path, precious: Path, write: Write
) -> None:
    (folder / ".comic-upscale-1.part").symlink_to(precious)
    write(store, "1.png", b"new")
    assert not (folder / "1.png").is_symlink()
    assert names_in(folder) == ["1.png"]
    assert store.read("1.png") == b"new"


@needs_links
def test_a_hard_link_under_the_name_of_a_part_is_not_written_to(
    store: LocalOutputStore, folder: Path, precious: Path
) -> None:
    (folder / ".comic-upscale-1.part").hardlink_to(precious)
    put(store, "1.png", b"new")
    assert store.read("1.png") == b"new"


@needs_links
def test_a_link_at_the_output_is_replaced_and_not_followed(
    store: LocalOutputStore, folder: Path, precious: Path
) -> None:
    (folder / "1.png").symlink_to(precious)
    put(store, "1.png", b"new")
    assert not (folder / "1.png").is_symlink()
    assert store.read("1.png") == b"new"


@needs_links
def test_the_proof_that_a_folder_can_be_written_follows_no_link(folder: Path, precious: Path) -> None:
    (folder / ".comic-upscale-check.part").symlink_to(precious)
    LocalOutputStore(folder).prepare()
    assert names_in(folder) == []


@needs_links
def test_a_file_that_is_written_whole_follows_no_link(folder: Path, precious: Path) -> None:
    (folder / f".comic-upscale-{os.getpid()}.part").symlink_to(precious)
    write_whole(b"new", folder / "report.html")
    assert (folder / "report.html").read_bytes() == b"new"
    assert names_in(folder) == ["report.html"]


@WAYS
def test_what_cannot_be_removed_from_the_name_of_a_part_is_gone_around(
    store: LocalOutputStore, folder: Path, write: Write
) -> None:
    (folder / ".comic-upscale-1.part").mkdir()
    write(store, "1.png", b"new")
    assert store.read("1.png") == b"new"
    assert names_in(folder) == ["1.png"]


@needs_modes
def test_a_part_of_another_user_in_a_folder_of_everybody_is_gone_around(open_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of two users")
    (open_folder / ".comic-upscale").mkdir()
    (open_folder / ".comic-upscale-1.part").write_bytes(b"root's")
    # As in /tmp: nobody may remove what is another's.
    open_folder.chmod(0o1777)
    store = LocalOutputStore(open_folder)
    with as_nobody():
        put(store, "1.png", b"new")
    assert (open_folder / ".comic-upscale-1.part").read_bytes() == b"root's"
    assert store.read("1.png") == b"new"


@needs_links
def test_links_are_looked_behind_and_told_apart(
    store: LocalOutputStore, folder: Path, precious: Path
) -> None:
    for name, target in {"there": precious, "nowhere": "none", "round": "round", "top": "."}.items():
        (folder / name).symlink_to(target)
    found = {name: store.stat(name) for name in ("there", "nowhere", "round", "top")}
    assert {name: each and (each.kind, each.size) for name, each in found.items() if name != "top"} == {
        "there": ("file", 8),
        "nowhere": ("other", -1),
        "round": ("other", -1),
    }
    assert found["top"] is not None
    assert found["top"].kind == "folder"
    assert store.is_same("there", precious)
    assert not store.is_same("nowhere", precious)
    assert store.real_folder("top/1.png") == store.real_folder()


# Modes


@needs_modes
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_and_folders_have_the_modes_that_the_user_wants(
    store: LocalOutputStore, folder: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        for number, write in enumerate((put, build, copy)):
            write(store, f"a/{number}.png", b"x")
        write_whole(b"x", folder / "a" / "report.html")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "a").iterdir()}
    assert modes == dict.fromkeys(["0.png", "1.png", "2.png", "report.html"], 0o666 & ~umask)
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o777 & ~umask


# Under Windows


@WAYS
def test_what_opens_a_new_file_for_a_moment_is_waited_for(
    write: Write, store: LocalOutputStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Virus scanners and the search index do."""
    windows = Windows(monkeypatch)
    write(store, "a.png", b"first")
    windows.refusals["a.png"] = 3
    write(store, "a.png", b"second")
    assert (folder / "a.png").read_bytes() == b"second"
    windows.refusals["a.png"] = 3
    store.relocate("a.png", "b.png")
    windows.refusals["b.png"] = 3
    store.delete(["b.png"])
    assert not (folder / "b.png").exists()


def test_a_file_that_stays_open_fails_after_a_moment(
    store: LocalOutputStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = Windows(monkeypatch)
    monkeypatch.setattr(parts, "_PATIENCE_SECONDS", 0.01)
    put(store, "a.png", b"first")
    windows.refusals["a.png"] = 10**9
    with pytest.raises(PageError, match="used by another process"):
        put(store, "a.png", b"second")
    assert (folder / "a.png").read_bytes() == b"first"
    assert names_in(folder) == ["a.png"]


def test_elsewhere_nothing_is_waited_for(store: LocalOutputStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        attempts.append(1)
        raise PermissionError(errno.EACCES, "no")

    attempts: list[int] = []
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PageError):
        put(store, "a.png", b"content")
    assert attempts == [1]
