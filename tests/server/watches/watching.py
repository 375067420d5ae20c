"""A server that watches folders, in the process of the test."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2 as httpx
import sqlalchemy as sa

from comic_upscale.server.database.schema import jobs, now_ms, watches
from comic_upscale.server.folder_watch import POLL_SECONDS, FolderWatch
from comic_upscale.server.services import Services
from tests.server.test_queue import change

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
