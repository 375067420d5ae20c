"""The supervisor with real processes in place of workers: one that starts too late, and one that cannot start."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
import sqlalchemy as sa

from comic_upscale.server import supervisor as supervisor_module
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.services import Services
from comic_upscale.server.supervisor import Supervisor, WorkerCommand
from tests.server.running import PATIENCE
from tests.server.test_queue import add

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the worker is told to stop by signals")

SLEEPER = WorkerCommand([sys.executable, "-c", "import sys; sys.stdin.read()"], dict(os.environ))
"""Runs until a signal, or until the server closes the pipe."""


def work_for(services: Services) -> Database:
    add(services.database)
    return services.database


def test_a_stop_while_a_worker_starts_reaches_that_worker(services: Services) -> None:
    class Stopped(Supervisor):
        async def _has_work(self) -> bool:
            found = await super()._has_work()
            # The worker is not there yet, so there is nobody to tell.
            await self.stop()
            return found

    supervisor = Stopped(services.settings, work_for(services), SLEEPER)
    asyncio.run(asyncio.wait_for(supervisor.run(), PATIENCE))


async def run_until_problems(supervisor: Supervisor) -> None:
    running = asyncio.ensure_future(supervisor.run())
    while not supervisor.problems():
        assert not running.done(), running.exception()
        await asyncio.sleep(0.05)
    await supervisor.stop()
    await running


DIES = """
import os, sqlite3, sys
worker_id = sys.argv[sys.argv.index("--worker-id") + 1]
with sqlite3.connect(sys.argv[1]) as database:
    database.execute("UPDATE jobs SET status = 'running', lease_until = 9e15, worker_id = ?", (worker_id,))
database.close()
if "fatal" in sys.argv:
    print("Fatal Python error: Aborted", file=sys.stderr)
print("job 0123: private/name.png: cannot be decoded", file=sys.stderr, flush=True)
os._exit(3)
"""
"""A worker that claims the job, says something about a file, and dies."""


@pytest.mark.parametrize(
    ("words", "expected"),
    [((), "it exited with code 3"), (("fatal",), "it exited with code 3: Fatal Python error: Aborted")],
)
def test_lines_of_a_dead_worker_reach_no_stranger(
    services: Services, words: tuple[str, ...], expected: str
) -> None:
    path = services.settings.data / "server.sqlite3"
    command = WorkerCommand([sys.executable, "-c", DIES, str(path), *words], dict(os.environ))
    supervisor = Supervisor(services.settings, work_for(services), command)

    asyncio.run(asyncio.wait_for(run_until_problems(supervisor), PATIENCE))
    assert supervisor.problems() == [f"the worker crashed 2 times in a row: {expected}"]
    found = services.database.read(lambda c: c.execute(sa.select(jobs.c.error_code, jobs.c.error)).one())
    assert tuple(found) == ("worker_ended", expected)


WORKS_AND_DIES = """
import sqlite3, sys, time
worker_id = sys.argv[sys.argv.index("--worker-id") + 1]
with sqlite3.connect(sys.argv[1], timeout=60) as database:
    database.execute(
        "UPDATE jobs SET status = 'completed', worker_id = ?, updated_at = ? WHERE id ="
        " (SELECT min(id) FROM jobs WHERE status = 'queued')", (worker_id, int(time.time() * 1000)))
database.close()
sys.exit(3)
"""
"""A worker that completes one job, and dies."""


def test_a_worker_that_did_its_work_before_it_died_is_no_crash_loop(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "CRASH_WAIT_SECONDS", (0.0,))
    for _ in range(3):
        add(services.database)
    path = services.settings.data / "server.sqlite3"
    command = WorkerCommand([sys.executable, "-c", WORKS_AND_DIES, str(path)], dict(os.environ))
    supervisor = Supervisor(services.settings, services.database, command)

    async def run() -> None:
        running = asyncio.ensure_future(supervisor.run())
        while services.database.read(
            lambda c: c.scalar(sa.select(jobs.c.id).where(jobs.c.status == "queued"))
        ):
            assert supervisor.problems() == []
            await asyncio.sleep(0.05)
        await supervisor.stop()
        await running

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
    assert supervisor.problems() == []


def test_a_worker_that_cannot_be_started_degrades_the_server(services: Services) -> None:
    supervisor = Supervisor(services.settings, work_for(services), WorkerCommand(["/nowhere/python"], {}))

    asyncio.run(asyncio.wait_for(run_until_problems(supervisor), PATIENCE))
    (problem,) = supervisor.problems()
    assert problem.startswith("the worker crashed 2 times in a row: it cannot be started: No such file")
