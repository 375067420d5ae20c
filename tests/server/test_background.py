"""Work in the background of a server goes on after an error that nobody expected, and the server with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from comic_upscale.server import janitor as janitor_module
from comic_upscale.server import monitor as monitor_module
from comic_upscale.server import outbox as outbox_module
from comic_upscale.server import supervisor as supervisor_module
from comic_upscale.server.janitor import Janitor
from comic_upscale.server.outbox import Outbox
from comic_upscale.server.services import Services
from comic_upscale.server.supervisor import Supervisor, WorkerCommand
from tests.server.running import PATIENCE

ROUNDS = 3


class OddError(Exception):
    """What nobody expects."""


class Fails:
    """Fails each time, and knows how often."""

    def __init__(self) -> None:
        self.calls = 0
        self.enough = asyncio.Event()

    def __call__(self) -> None:
        self.calls += 1
        if self.calls >= ROUNDS:
            self.enough.set()
        raise OddError

    async def later(self, *_: object) -> None:
        self()


async def run_until(fails: Fails, work: Callable[[], Awaitable[None]]) -> None:
    """Run work until it has failed often enough; it must not end by itself."""
    running = asyncio.ensure_future(work())
    enough = asyncio.ensure_future(fails.enough.wait())
    await asyncio.wait({running, enough}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    assert not running.done(), "the server would have ended with it"
    assert enough.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor_module, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(janitor_module, "EVERY_SECONDS", 0.01)
    for module in (outbox_module, monitor_module, supervisor_module):
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)


@pytest.mark.parametrize("name", ["janitor", "outbox", "monitor", "supervisor"])
def test_an_unexpected_error_is_logged_and_the_next_round_comes(
    services: Services, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        fails = Fails()
        if name == "janitor":
            janitor = Janitor(services.database, services.files, services.settings.data / "work")
            # It cleans up on a thread.
            loop = asyncio.get_running_loop()
            monkeypatch.setattr(
                janitor, "clean", lambda: asyncio.run_coroutine_threadsafe(fails.later(), loop).result()
            )
            run = janitor.run
        elif name == "outbox":
            outbox = Outbox(services.database, {})
            monkeypatch.setattr(outbox, "_start_due", fails.later)
            run = outbox.run
        elif name == "monitor":
            monkeypatch.setattr(services.monitor, "look", fails.later)
            run = services.monitor.run
        else:
            supervisor = Supervisor(services.settings, services.database, WorkerCommand([], {}))
            monkeypatch.setattr(supervisor, "_look", fails.later)
            run = supervisor.run
        await run_until(fails, run)

    with caplog.at_level(logging.ERROR, logger="comic_upscale.server"):
        asyncio.run(work())
    logged = [record for record in caplog.records if record.exc_info is not None]
    assert len(logged) >= ROUNDS - 1
    assert all(record.exc_info is not None and record.exc_info[0] is OddError for record in logged)
