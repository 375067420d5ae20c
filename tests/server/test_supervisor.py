"""The supervisor with real processes in place of workers: one that starts too late, and one that cannot start."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from comic_upscale.server.database.engine import Database
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


def test_a_worker_that_cannot_be_started_degrades_the_server(services: Services) -> None:
    supervisor = Supervisor(services.settings, work_for(services), WorkerCommand(["/nowhere/python"], {}))

    async def watch() -> list[str]:
        running = asyncio.ensure_future(supervisor.run())
        while not supervisor.problems():
            assert not running.done(), running.exception()
            await asyncio.sleep(0.05)
        await supervisor.stop()
        await running
        return supervisor.problems()

    (problem,) = asyncio.run(asyncio.wait_for(watch(), PATIENCE))
    assert problem.startswith("the worker crashed 2 times in a row: it cannot be started: No such file")
