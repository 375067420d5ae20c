"""Watched folders whose drive is away, does not answer, or holds what it should not."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.errors import DatabaseError
from comic_upscale.server import folder_watch
from comic_upscale.server.database.schema import watches
from comic_upscale.server.folder_watch import FolderWatch
from comic_upscale.server.services import Services
from comic_upscale.settings.paths import MARKER_FOLDER
from tests.conftest import draw
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.watches.watching import SETTLE, Clock, Watch, begin, shown

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links of POSIX")


def test_a_drive_that_is_away_is_waited_for(watch: Watch, boss: httpx.Client, root: Path) -> None:
    watch.settle()
    watch.end_job()
    for make_away in (lambda: None, lambda: (root / "Inbox").mkdir()):
        (root / "Inbox").rename(root / "unplugged")
        make_away()
        watch.settle()
        found = shown(boss)
        assert found["state"] == "waiting" and "is its drive there?" in found["problem"], found
        assert found["pages"] == 1
        if (root / "Inbox").exists():
            (root / "Inbox").rmdir()
        (root / "unplugged").rename(root / "Inbox")
        watch.settle()
        assert shown(boss)["state"] == "watching" and len(watch.jobs()) == 1


def test_results_that_are_gone_are_not_made_again_by_themselves(
    watch: Watch, boss: httpx.Client, root: Path
) -> None:
    watch.settle()
    (root / "Inbox" / "upscaled" / MARKER_FOLDER).mkdir(parents=True)
    watch.end_job()
    watch.settle()
    shutil.rmtree(root / "Inbox" / "upscaled")
    watch.settle()
    assert "are gone" in shown(boss)["problem"] and len(watch.jobs()) == 1
    watch_id = watch.row()["id"]
    # No look needs to come between the two.
    for action in ("pause", "resume"):
        assert boss.post(f"/api/v1/watches/{watch_id}/{action}").status_code == 200
    watch.settle()
    assert [job["selection"] for job in watch.jobs()] == [None, None] and shown(boss)["problem"] is None


def test_a_link_that_leads_out_is_refused(
    watch: Watch, boss: httpx.Client, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "page.png").write_bytes(b"x")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "Books").mkdir()
    (root / "Books" / "out").symlink_to(tmp_path / "secret")
    for path in (
        "out",
        "Books",
        "../secret",
        str(tmp_path / "secret"),
        "Inbox/1.png",
        "s3://bucket/x",
        "nothing",
    ):
        answer = boss.post("/api/v1/watches", json={"input": path})
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, "input"), path
        assert "page.png" not in answer.text
    # One that comes later is neither followed nor counted, and no job begins.
    (root / "Inbox" / "later").symlink_to(tmp_path / "secret")
    watch.settle()
    found = shown(boss)
    assert "later is a link that leads out" in found["problem"] and found["pages"] == 1
    assert watch.jobs() == []


def test_a_folder_that_became_a_link_is_not_followed(
    services: Services, boss: httpx.Client, root: Path, tmp_path: Path
) -> None:
    begin(boss, output="Results")
    watch = Watch(services, Clock())
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "page.png").write_bytes(b"x")
    (root / "Inbox").rename(root / "Moved")
    (root / "Inbox").symlink_to(tmp_path / "secret")
    watch.settle()
    found = shown(boss)
    assert "is not below a folder" in found["problem"] and found["pages"] is None
    assert watch.jobs() == []


def test_a_folder_that_does_not_answer_says_so_and_holds_back_no_other(
    watch: Watch, boss: httpx.Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "Other").mkdir()
    draw(root / "Other" / "1.png", 3, size=(40, 60))
    begin(boss, input="Other")
    go_on, real = threading.Event(), folder_watch._look

    def look(roots: Any, row: Any, folder: Any, now: int) -> Any:
        if row["input"].endswith("Inbox"):
            go_on.wait(60)
        return real(roots, row, folder, now)

    monkeypatch.setattr(folder_watch, "_look", look)
    monkeypatch.setattr(folder_watch, "ROUND_SECONDS", 0.2)

    async def some_rounds() -> None:
        for _ in range(3):
            await watch.folders.look()
            watch.clock.now += SETTLE + 1
        go_on.set()

    asyncio.run(some_rounds())
    found = {row["input"].rpartition("/")[2]: row for row in boss.get("/api/v1/watches").json()["watches"]}
    assert "does not answer" in found["Inbox"]["problem"] and found["Inbox"]["job_id"] is None
    assert found["Other"]["problem"] is None and found["Other"]["job_status"] == "queued"


def test_many_folders_that_do_not_answer_hold_back_no_other_and_get_one_thread_each(
    services: Services, boss: httpx.Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"hung {number}" for number in range(10)]
    for name in (*names, "z"):
        (root / name).mkdir()
        draw(root / name / "1.png", 3, size=(40, 60))
        begin(boss, input=name)
    go_on, real, entered = threading.Event(), folder_watch._look, list[str]()

    def look(roots: Any, row: Any, folder: Any, now: int) -> Any:
        if "hung" in row["input"]:
            entered.append(row["input"])
            assert threading.current_thread().daemon
            go_on.wait(60)
        return real(roots, row, folder, now)

    monkeypatch.setattr(folder_watch, "_look", look)
    monkeypatch.setattr(folder_watch, "ROUND_SECONDS", 0.2)
    watch = Watch(services, Clock())

    async def some_rounds() -> None:
        for _ in range(3):
            await watch.folders.look()
            watch.clock.now += SETTLE + 1
        # Paused and resumed, they still hang.
        services.database.write(lambda c: c.execute(sa.update(watches).values(holder=None, lease_until=0)))
        await watch.folders.look()

    try:
        asyncio.run(some_rounds())
        assert [job["input"] for job in watch.jobs()] == [str(root / "z")]
        assert sorted(entered) == sorted(str(root / name) for name in names)
    finally:
        go_on.set()


def test_a_root_that_does_not_answer_holds_back_no_other(
    open_server: OpenServices, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = tmp_path / "hung"
    hung.mkdir()
    services = open_server(roots=(str(root), str(hung)))
    with client_of(services, make_key(services, "boss", "admin")) as boss:
        begin(boss)
    go_on, real = threading.Event(), Path.resolve

    def resolve(path: Path, strict: bool = False) -> Path:
        if path == hung:
            go_on.wait(60)
        return real(path, strict)

    monkeypatch.setattr(Path, "resolve", resolve)
    monkeypatch.setattr(folder_watch, "ROUND_SECONDS", 0.2)
    watch = Watch(services, Clock())
    try:
        watch.settle()
        assert len(watch.jobs()) == 1 and watch.folders._roots == [root]
    finally:
        go_on.set()


@pytest.mark.parametrize("place", ["Inbox", f"upscaled/{MARKER_FOLDER}"])
def test_a_drive_whose_answer_is_an_error_is_named(
    watch: Watch, boss: httpx.Client, root: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    watch.settle()
    watch.end_job()
    real = os.stat

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(place):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        watch.settle()
    problem = shown(boss)["problem"]
    named = watch.row()["input" if place == "Inbox" else "output"]
    assert problem == f"{named} cannot be used: {os.strerror(errno.ENOTCONN)}. Is its drive there?"
    watch.settle()
    assert shown(boss)["problem"] is None and len(watch.jobs()) == 1


def test_an_unexpected_error_is_shown_and_not_met_again_at_once(
    watch: Watch, boss: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def look(*_: Any) -> Any:
        calls.append(1)
        raise ValueError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr(folder_watch, "_look", look)
        for _ in range(3):
            watch.look()
    assert "cannot be looked at (ValueError)" in shown(boss)["problem"] and len(calls) == 1
    watch.settle()
    assert shown(boss)["problem"] is None and len(watch.jobs()) == 1


def test_an_unexpected_error_does_not_end_the_watch(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [ValueError("a fault"), DatabaseError("another")]

    async def look(_: FolderWatch) -> None:
        if not errors:
            raise asyncio.CancelledError
        raise errors.pop()

    monkeypatch.setattr(FolderWatch, "look", look)
    monkeypatch.setattr(folder_watch, "ROUND_SECONDS", 0)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch.folders.run())
    assert errors == []


def test_very_many_files_that_still_change_are_waited_for_and_counted(
    watch: Watch, boss: httpx.Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_watch, "MOST_NAMED", 2)
    watch.look()
    watch.clock.now += SETTLE + 1
    for number in range(3):
        (root / "Inbox" / f"new {number}.cbz").write_bytes(b"half")
    watch.look()
    assert "3 files still change" in shown(boss)["problem"] and watch.jobs() == []
    watch.settle()
    assert shown(boss)["problem"] is None and len(watch.jobs()) == 1
