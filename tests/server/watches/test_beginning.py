"""What begins a job in a watched folder, and what does not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from comic_upscale.server import queue
from comic_upscale.server.database.schema import now_ms, watches
from comic_upscale.server.services import Services, open_services
from comic_upscale.server.settings import ServerSettings
from tests.conftest import draw
from tests.fakes import NearestEngine
from tests.server.conftest import client_of, make_key
from tests.server.test_queue import taken
from tests.server.test_told_errors import REASON, WITH_PLACES
from tests.server.watches.watching import SETTLE, Clock, Watch, again, begin, shown
from tests.worker.test_live_pictures import runner_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links of POSIX")


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


def test_the_problem_of_a_watched_folder_names_no_folder_of_the_worker(
    watch: Watch, boss: httpx.Client
) -> None:
    watch.settle()
    held = taken(watch.services.database)
    watch.services.database.write(lambda c: queue.fail(c, held, "weights", WITH_PLACES))
    watch.settle()
    problem = shown(boss)["problem"]
    assert f"{REASON} It begins again" in problem and "/srv" not in problem


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
