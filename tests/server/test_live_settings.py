"""Settings that change while the server runs, sessions of all users, quotas in pixels, and the logs of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from comic_upscale.execution.events import JobFinished
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.records import PageFailed
from comic_upscale.server import job_log, overrides, queue
from comic_upscale.server.services import Services
from comic_upscale.worker.beat import Heartbeat
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.test_access import add_person, log_in
from tests.server.test_admin import actions
from tests.server.test_queue import taken
from tests.server.test_uploads import send


@pytest.fixture
def boss(services: Services) -> Iterator[httpx.Client]:
    with client_of(services, make_key(services, "boss", "admin")) as client:
        yield client


def values(answer: httpx.Response) -> dict[str, object]:
    assert answer.status_code == 200, answer.text
    return {setting["name"]: setting["value"] for setting in answer.json()["settings"]}


def test_settings_are_in_force_at_once_and_survive_a_restart(
    services: Services, boss: httpx.Client, open_server: OpenServices
) -> None:
    changes = {
        "max_upload_size": 100,
        "accepted_types": ["png", ".CBZ"],
        "retention_days": 2,
        "job_timeout": 60,
    }
    with client_of(services, make_key(services, "me")) as client:
        assert send(client, "a.jpg").status_code == 202
        assert values(boss.post("/api/v1/admin/settings", json=changes))["retention_days"] == 2
        assert send(client, "a.jpg").status_code == 415
        assert send(client, "a.png", content=b"x" * 101).status_code == 413
        found = client.get(send(client, "a.cbz").headers["location"]).json()
        assert found["expires_at"][:10] > found["created_at"][:10]
    # As another process reads it: the worker, or a server after a restart.
    again = open_server()
    assert (again.settings.max_upload_size, again.settings.job_timeout) == (100, 60.0)
    assert values(boss.post("/api/v1/admin/settings", json={"job_timeout": None}))["job_timeout"] is None
    assert services.database.read(lambda c: overrides.effective(c, services.live.started)).job_timeout is None
    assert actions(services) == ["settings.change"] * 2


def test_a_read_that_began_before_a_change_does_not_undo_it(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, read = services.live, services.database.read_async

    async def overtaken() -> None:
        has_read, may_end = asyncio.Event(), asyncio.Event()

        async def slow(work: Any) -> Any:
            found = await read(work)
            has_read.set()
            await may_end.wait()
            return found

        monkeypatch.setattr(services.database, "read_async", slow)
        earlier = asyncio.ensure_future(live.refresh(now=True))
        await has_read.wait()
        monkeypatch.setattr(services.database, "read_async", read)
        await services.database.write_async(lambda c: queue.set_state(c, maintenance=True))
        await live.refresh(now=True)
        may_end.set()
        await earlier

    asyncio.run(overtaken())
    assert live.in_maintenance


@pytest.mark.parametrize(
    "changes",
    [
        {"retention_days": 3_000_000}, {"anonymous_hours": 1e300},
        {"rate_limit": 0}, {"rate_limit": "many"}, {"retention_days": -1}, {"data": "/tmp"}, {"secret_key": "x" * 20},
        {"max_files": 1.5}, {"min_free_disk": 200}, {"accepted_types": "png"}, {"accepted_types": ["png", "exe"]},
        {"nothing": 1}, {"rate_limit": 5, "max_files": 0},
    ],
)  # fmt: skip
def test_a_wrong_setting_changes_nothing(
    services: Services, boss: httpx.Client, changes: dict[str, object]
) -> None:
    before = values(boss.get("/api/v1/admin/settings"))
    answer = boss.post("/api/v1/admin/settings", json=changes)
    assert answer.status_code == 400 and "--" not in answer.json()["error"]["message"], answer.text
    assert values(boss.get("/api/v1/admin/settings")) == before
    assert actions(services) == []


def test_a_limit_of_requests_counts_at_once(services: Services, boss: httpx.Client) -> None:
    with client_of(services, make_key(services, "me")) as client:
        assert client.get("/api/v1/jobs").status_code == 200
        boss.post("/api/v1/admin/settings", json={"rate_limit": 1})
        assert [client.get("/api/v1/jobs").status_code for _ in range(2)] == [200, 429]


def test_sessions_of_all_users_are_listed_and_ended(services: Services, boss: httpx.Client) -> None:
    add_person(services, "ann")
    with client_of(services) as client:
        log_in(client, "ann")
        (session,) = boss.get("/api/v1/admin/sessions").json()["sessions"]
        assert (session["user"], session["address"], session["is_current"]) == ("ann", "192.0.2.1", False)
        assert "secret" not in str(session)
        assert boss.delete(f"/api/v1/admin/sessions/{session['id']}").status_code == 204
        assert boss.delete(f"/api/v1/admin/sessions/{session['id']}").status_code == 404
        assert client.get("/api/v1/jobs").status_code == 401
    assert actions(services)[-1] == "session.end"


def test_pixels_of_a_day_are_counted(services: Services, boss: httpx.Client) -> None:
    key = make_key(services, "me")
    assert (
        boss.patch("/api/v1/admin/users/me", json={"pixels_per_day": 1000}).json()["pixels_per_day"] == 1000
    )
    with client_of(services, key) as client:
        send(client)
        held = taken(services.database)
        done = queue.Result(pages_total=1, pages_done=1, pages_failed=0, pixels=1000)
        services.database.write(lambda c: queue.complete(c, held, done))
        refused = send(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota")
        assert "pixels" in refused.json()["error"]["message"]


def test_the_log_of_a_job_has_its_failures(services: Services, boss: httpx.Client) -> None:
    with client_of(services, make_key(services, "me")) as client:
        job_id = send(client).json()["job_id"]
    held = taken(services.database)
    with Heartbeat(services.database, held, StopRequest(), None) as beat:
        beat.say("attempt 1\0")
        beat.take(PageFailed(row_id=1, source="a.png", kind="damaged", reason="It ends too early."))
        beat.take(
            JobFinished(
                state="finished", reason=None, total=1, done=0, done_now=0, failed=1, skipped=0, pending=0,
                seconds=1.0, pages_per_second=None, output="out", ledger="ledger", warnings=("A warning.",),
            )
        )  # fmt: skip
    answer = boss.get(f"/api/v1/admin/jobs/{job_id}/logs").json()["lines"]
    lines = [line["line"] for line in answer]
    assert lines[0].startswith("attempt 1") and "\0" not in lines[0]
    assert lines[1:] == [
        "a.png: damaged: It ends too early.",
        "finished: 0 pages done, 1 failed, 1.0 s",
        "A warning.",
    ]
    more = boss.get(f"/api/v1/admin/jobs/{job_id}/logs", params={"after": answer[1]["id"], "limit": 1}).json()
    assert [line["line"] for line in more["lines"]] == lines[2:3]
    assert boss.get("/api/v1/admin/jobs/none/logs").status_code == 404


def test_a_log_is_bounded(services: Services) -> None:
    with client_of(services, make_key(services, "me")) as client:
        job_id = send(client).json()["job_id"]
    for _ in range(3):
        services.database.write(lambda c: job_log.add(c, job_id, ["x" * 5000] * (job_log.MOST_LINES // 2)))
    lines = services.database.read(lambda c: job_log.read(c, job_id, after=0, limit=9999))
    assert len(lines) == job_log.MOST_LINES and len(lines[0]["line"]) == job_log.LONGEST_LINE
