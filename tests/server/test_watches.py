"""Watched folders of a server: what begins a job, what does not, and who may say so."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.errors import DatabaseError
from comic_upscale.server import folder_watch, queue
from comic_upscale.server.accounts import ensure_user
from comic_upscale.server.database.schema import audit, jobs, now_ms, users, watches
from comic_upscale.server.folder_watch import POLL_SECONDS, FolderWatch
from comic_upscale.server.services import Services, open_services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.paths import MARKER_FOLDER
from tests.conftest import draw
from tests.fakes import NearestEngine
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.pages import csrf_of, pages_of, sign_in
from tests.server.test_access import add_person
from tests.server.test_pages import check_html
from tests.server.test_queue import change, taken
from tests.worker.test_live_pictures import runner_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links of POSIX")

SETTLE = 30.0


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watch:
    """A server that watches, and whose time a test lets pass."""

    def __init__(self, services: Services, clock: Clock) -> None:
        self.services, self.clock = services, clock
        self.folders = FolderWatch(services, clock)

    def look(self) -> None:
        asyncio.run(self.folders.look())

    def settle(self) -> None:
        """Look at what there is now, and again once it has been still for long enough."""
        for _ in range(2):
            self.clock.now += max(SETTLE, POLL_SECONDS) + 1
            self.look()

    def row(self) -> dict[str, Any]:
        found = self.services.database.read(lambda c: c.execute(sa.select(watches)).mappings().one())
        return dict(found)

    def jobs(self) -> list[dict[str, Any]]:
        rows = self.services.database.read(
            lambda c: c.execute(sa.select(jobs).order_by(jobs.c.created_at, jobs.c.id)).mappings().all()
        )
        return [dict(row) for row in rows]

    def end_job(self, status: str = "completed", **values: Any) -> None:
        """Let the job that waits end, as a worker would."""
        ended = {"status": status, "finished_at": now_ms(), "updated_at": now_ms(), **values}
        change(self.services.database, self.jobs()[-1]["id"], **ended)


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


def begin(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/watches", json={"input": "Inbox", "options": {"factor": "2x"}, **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def shown(client: httpx.Client) -> dict[str, Any]:
    (only,) = client.get("/api/v1/watches").json()["watches"]
    return dict(only)


def again(services: Services, clock: Clock) -> Watch:
    """The server after a restart."""
    services.database.write(lambda c: c.execute(sa.update(watches).values(lease_until=0)))
    return Watch(services, clock)


def test_a_folder_is_upscaled_and_later_what_is_new(
    watch: Watch, boss: httpx.Client, root: Path, tmp_path: Path
) -> None:
    inbox = root / "Inbox"
    watch.look()
    assert watch.jobs() == [] and shown(boss)["pages"] == 1
    watch.settle()
    (first,) = watch.jobs()
    assert (first["input"], first["output"]) == (str(inbox), str(inbox / "upscaled"))
    assert first["selection"] is None and shown(boss)["state"] == "working"
    runner = runner_of(watch.services, tmp_path, NearestEngine())
    runner.run(taken(watch.services.database))
    assert (inbox / "upscaled" / "1.png").exists()
    watch.settle()
    assert len(watch.jobs()) == 1 and shown(boss)["state"] == "watching"
    draw(inbox / "2.png", 2, size=(40, 60))
    watch.settle()
    assert watch.jobs()[1]["selection"] == {"paths": ["2.png"], "include": [], "exclude": []}
    # The job was not begun for this one, which may be half a page.
    draw(inbox / "3.png", 3, size=(40, 60))
    runner.run(taken(watch.services.database))
    assert (inbox / "upscaled" / "2.png").exists() and not (inbox / "upscaled" / "3.png").exists()
    watch.settle()
    runner.run(taken(watch.services.database))
    assert (inbox / "upscaled" / "3.png").exists()
    found = shown(boss)
    assert (found["state"], found["problem"], found["job_status"], found["pages"]) == (
        "watching", None, "completed", 3,
    )  # fmt: skip


def test_a_file_that_still_grows_is_left_out(watch: Watch, root: Path) -> None:
    watch.look()
    watch.clock.now += SETTLE + 1
    (root / "Inbox" / "half.cbz").write_bytes(b"half")
    watch.look()
    (job,) = watch.jobs()
    assert job["selection"] == {"paths": [], "include": [], "exclude": ["/half.cbz"]}


def test_a_change_while_a_job_waits_begins_the_next_one_after_it(watch: Watch, root: Path) -> None:
    watch.settle()
    draw(root / "Inbox" / "2.png", 2, size=(40, 60))
    watch.settle()
    assert len(watch.jobs()) == 1
    watch.end_job()
    watch.settle()
    assert [job["selection"] and job["selection"]["paths"] for job in watch.jobs()] == [None, ["2.png"]]


def test_a_restart_begins_no_job_and_forgets_no_change(watch: Watch, root: Path) -> None:
    watch.settle()
    watch.end_job()
    after = again(watch.services, watch.clock)
    after.settle()
    assert len(after.jobs()) == 1
    draw(root / "Inbox" / "2.png", 2, size=(40, 60))
    third = again(watch.services, watch.clock)
    third.settle()
    # What the folder was like before is not known any more, so the job looks at all of it.
    assert [job["selection"] for job in third.jobs()] == [None, None]


@pytest.fixture
def two_servers(settings: ServerSettings, root: Path) -> Iterator[tuple[Services, Services]]:
    """Two servers on one database, of each kind."""
    shared = replace(settings, roots=(str(root),))
    opened = [open_services(shared), open_services(shared)]
    yield opened[0], opened[1]
    for services in opened:
        services.close()


def test_two_servers_begin_one_job_for_a_change(two_servers: tuple[Services, Services], root: Path) -> None:
    one, other = two_servers
    clock = Clock()
    with client_of(one, make_key(one, "boss", "admin")) as client:
        begin(client)
        first, second = Watch(one, clock), Watch(other, clock)

        async def look_at_once() -> None:
            await asyncio.gather(first.folders.look(), second.folders.look())

        for number in range(2, 6):
            for _ in range(2):
                clock.now += SETTLE + 1
                asyncio.run(look_at_once())
            assert len(first.jobs()) == number - 1
            first.end_job()
            draw(root / "Inbox" / f"{number}.png", number, size=(40, 60))
        # The server that looked dies, and the other one takes the folder over.
        dead, alive = (first, second) if first.row()["holder"] == first.folders.holder else (second, first)
        alive.settle()
        assert len(alive.jobs()) == 4
        one.database.write(lambda c: c.execute(sa.update(watches).values(lease_until=0)))
        alive.settle()
        assert alive.row()["holder"] == alive.folders.holder and len(alive.jobs()) == 5
        # It was only slow. What it still wanted to begin does not begin.
        dead.settle()
        assert len(alive.jobs()) == 5


def test_a_lease_that_was_lost_begins_no_job(watch: Watch) -> None:
    watch.look()
    watch.clock.now += SETTLE + 1
    held = next(iter(watch.folders._held.values()))
    due = held.folder.look()
    assert due is not None
    watch.services.database.write(lambda c: c.execute(sa.update(watches).values(holder="another")))
    begun = asyncio.run(watch.folders._begin_job(watch.row()["id"], held.folder, due))
    assert begun is None and watch.jobs() == []


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


def test_a_lease_that_went_away_and_came_back_forgets_what_is_held(watch: Watch, root: Path) -> None:
    watch.settle()
    watch.end_job()
    watch.look()
    before = next(iter(watch.folders._held.values()))
    lost = sa.update(watches).values(holder="another", lease_until=0)
    watch.services.database.write(lambda c: c.execute(lost))
    watch.look()
    assert watch.row()["holder"] == watch.folders.holder
    assert next(iter(watch.folders._held.values())) is not before


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


def test_outputs_are_checked_and_not_shared(watch: Watch, boss: httpx.Client, root: Path) -> None:
    (root / "Other").mkdir()
    for output in ("Inbox/upscaled", "..", ".", "Other"):
        answer = boss.post("/api/v1/watches", json={"input": "Other", "output": output})
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, "output"), output
    long = boss.post("/api/v1/watches", json={"input": "Other", "output": "a" * 300})
    assert (long.status_code, long.json()["error"]["field"]) == (400, "output")
    assert begin(boss, input="Other", output="Results")["output"] == str(root / "Results")


def test_a_job_that_failed_for_a_time_is_tried_again_later_each_time(
    watch: Watch, boss: httpx.Client
) -> None:
    watch.settle()
    for minutes in (1, 2, 4):
        count = len(watch.jobs())
        watch.end_job("failed", error_code="output", error="The disk is full.")
        watch.settle()
        found = shown(boss)
        assert f"The disk is full. It begins again {minutes} min" in found["problem"]
        assert found["state"] == "waiting" and len(watch.jobs()) == count
        watch.end_job("failed", finished_at=now_ms() - minutes * 60_000)
        watch.settle()
        assert len(watch.jobs()) == count + 1
    watch.end_job()
    watch.settle()
    assert shown(boss)["problem"] is None and len(watch.jobs()) == 4


@pytest.mark.parametrize(
    ("status", "code"), [("canceled", None), ("failed", "no_page"), ("failed", "set_aside")]
)
def test_other_ends_wait_for_a_change_that_then_takes_everything(
    watch: Watch, root: Path, status: str, code: str | None
) -> None:
    watch.settle()
    watch.end_job(status, error_code=code, error="Why.", finished_at=1)
    watch.settle()
    assert len(watch.jobs()) == 1
    draw(root / "Inbox" / "2.png", 2, size=(40, 60))
    watch.settle()
    assert [job["selection"] for job in watch.jobs()] == [None, None]


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


def test_a_job_that_runs_again_looks_at_the_same_part(watch: Watch, boss: httpx.Client, root: Path) -> None:
    watch.settle()
    watch.end_job()
    draw(root / "Inbox" / "2.png", 2, size=(40, 60))
    watch.settle()
    watch.end_job()
    old = watch.jobs()[-1]
    assert old["selection"] is not None
    assert boss.post(f"/api/v1/admin/jobs/{old['id']}/requeue", json={}).status_code == 202
    (new,) = (job for job in watch.jobs() if job["requeue_of"] == old["id"])
    assert new["selection"] == old["selection"]


def test_who_may_watch(services: Services, boss: httpx.Client) -> None:
    keys = {name: make_key(services, name) for name in ("ann", "bob")}
    with client_of(services, keys["ann"]) as ann, client_of(services, keys["bob"]) as bob:
        body = {"input": "Inbox"}
        assert ann.post("/api/v1/watches", json=body).status_code == 403
        made = begin(bob)["watch_id"]
        assert len(bob.get("/api/v1/watches").json()["watches"]) == 1
        assert ann.get("/api/v1/watches").json() == {"watches": []}
        assert len(boss.get("/api/v1/watches").json()["watches"]) == 1
        for method, way in (("get", ""), ("post", "/pause"), ("post", "/resume"), ("delete", "")):
            assert ann.request(method.upper(), f"/api/v1/watches/{made}{way}").status_code == 404
        assert boss.post(f"/api/v1/watches/{made}/pause").json()["state"] == "paused"
        assert bob.post(f"/api/v1/watches/{made}/resume").json()["state"] == "watching"
        # Whoever may no longer use the library may still end it, and nothing else.
        assert boss.post("/api/v1/admin/settings", json={"library_users": ["ann"]}).status_code == 200
        watch = Watch(services, Clock())
        watch.settle()
        assert "may not use the library any more" in shown(boss)["problem"] and watch.jobs() == []
        assert bob.post(f"/api/v1/watches/{made}/pause").status_code == 200
        assert bob.post(f"/api/v1/watches/{made}/resume").status_code == 403
        assert bob.delete(f"/api/v1/watches/{made}").status_code == 204
        assert boss.get(f"/api/v1/watches/{made}").status_code == 404
    actions = services.database.read(
        lambda c: list(
            c.scalars(sa.select(audit.c.action).where(audit.c.object == made).order_by(audit.c.id))
        )
    )
    assert actions == ["watch.create", "watch.pause", "watch.resume", "watch.pause", "watch.delete"]


def test_limits_of_users_count_for_what_they_watch(services: Services, boss: httpx.Client) -> None:
    with client_of(services, make_key(services, "bob")) as bob:
        begin(bob)
    change_user = sa.update(users).where(users.c.name == "bob")
    services.database.write(lambda c: c.execute(change_user.values(pages_per_day=0)))
    watch = Watch(services, Clock())
    watch.settle()
    assert "No job begins: you may send 0 pages in 24 hours" in shown(boss)["problem"]
    services.database.write(lambda c: c.execute(change_user.values(pages_per_day=None)))
    services.database.write(lambda c: queue.set_state(c, maintenance=True))
    watch.settle()
    assert "takes no uploads for now" in shown(boss)["problem"] and watch.jobs() == []
    services.database.write(lambda c: queue.set_state(c, maintenance=False))
    watch.settle()
    (job,) = watch.jobs()
    bob_id = services.database.read(lambda c: ensure_user(c, "bob", "user"))
    assert job["owner_id"] == bob_id and shown(boss)["problem"] is None


def test_a_paused_folder_is_left_alone_and_a_removed_one_forgotten(
    watch: Watch, boss: httpx.Client, root: Path
) -> None:
    watch_id = watch.row()["id"]
    watch.look()
    assert boss.post(f"/api/v1/watches/{watch_id}/pause").json()["state"] == "paused"
    watch.settle()
    assert watch.jobs() == [] and watch.folders._held == {}
    boss.post(f"/api/v1/watches/{watch_id}/resume")
    watch.settle()
    assert len(watch.jobs()) == 1
    assert boss.delete(f"/api/v1/watches/{watch_id}").status_code == 204
    watch.end_job()
    draw(root / "Inbox" / "2.png", 2, size=(40, 60))
    watch.settle()
    assert len(watch.jobs()) == 1 and (root / "Inbox" / "1.png").exists()


def test_a_folder_that_no_server_looks_at_says_so(watch: Watch, boss: httpx.Client) -> None:
    assert shown(boss)["problem"] is None
    ago = now_ms() - 200_000
    watch.services.database.write(
        lambda c: c.execute(sa.update(watches).values(created_at=ago, lease_until=ago))
    )
    assert "No server looks at this folder" in shown(boss)["problem"]
    watch.look()
    assert shown(boss)["problem"] is None


def test_the_pages_of_watched_folders(services: Services, root: Path) -> None:
    for name, role in (("bob", "user"), ("ann", "user")):
        add_person(services, name, role)  # type: ignore[arg-type]
    with pages_of(services) as bob, pages_of(services) as ann:
        empty = sign_in(bob, "bob").get("/library/watched")
        assert "No folder is watched." in empty.text
        folder = bob.get("/library", params={"path": str(root / "Inbox")})
        assert 'formaction="/library/watched"' in folder.text
        form = {
            "csrf_token": csrf_of(folder), "path": str(root / "Inbox"), "factor": "2", "preset": "standard",
            "output": str(root / "Results"),
        }  # fmt: skip
        sent = bob.post("/library/watched", data=form)
        assert sent.headers["location"] == "/library/watched?notice=watched"
        twice = bob.post("/library/watched", data=form)
        assert twice.status_code == 400 and "already" in twice.text
        watch = Watch(services, Clock())
        watch.settle()
        page = bob.get(sent.headers["location"])
        check_html(page.text)
        for text in (
            "The folder is watched.",
            str(root / "Inbox"),
            str(root / "Results"),
            "1 page or volume",
            "queued",
        ):
            assert text in page.text, text
        assert bob.get("/library/watched", headers={"HX-Request": "true"}).text.startswith(
            '<div id="watched"'
        )
        assert 'href="/library/watched"' in bob.get("/library?path=Inbox").text
        assert "watched folder" in bob.get("/library").text
        watch_id = watch.row()["id"]
        sign_in(ann, "ann")
        token = {"csrf_token": csrf_of(ann.get("/account"))}
        assert ann.get("/library/watched").status_code == 403
        assert ann.post("/library/watched", data=form | token).status_code == 403
        assert ann.post(f"/library/watched/{watch_id}/remove", data=token).status_code == 404
        token = {"csrf_token": csrf_of(page)}
        for action, text in (
            ("pause", "is paused"),
            ("resume", "watched again"),
            ("remove", "no longer watched"),
        ):
            sent = bob.post(f"/library/watched/{watch_id}/{action}", data=token)
            assert text in bob.get(sent.headers["location"]).text, action
