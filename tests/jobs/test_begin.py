"""The start of a run: its heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from comic_upscale.errors import LedgerError
from comic_upscale.execution.base import Activity
from comic_upscale.jobs import begin
from comic_upscale.ledger.async_ledger import AsyncLedger


def test_heartbeats_go_on_after_an_error_of_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise another host takes a run that works for a dead one."""
    monkeypatch.setattr(begin, "HEARTBEAT_SECONDS", 0.0)

    class Ledger:
        """Busy for the first two heartbeats."""

        def __init__(self, on_success: Callable[[], object]) -> None:
            self._calls, self._on_success = 0, on_success

        def heartbeat(self, run_id: int, within: str | None) -> None:
            self._calls += 1
            if self._calls <= 2:
                raise LedgerError("the ledger is busy")
            self._on_success()

    async def work() -> None:
        on_ledger, recorded = AsyncLedger(), asyncio.Event()
        loop = asyncio.get_running_loop()
        ledger: Any = Ledger(lambda: loop.call_soon_threadsafe(recorded.set))
        executor: Any = SimpleNamespace(activity=Activity())
        beating = asyncio.create_task(begin._keep_alive(ledger, on_ledger, 1, executor))
        waiting = asyncio.create_task(recorded.wait())
        try:
            await asyncio.wait({beating, waiting}, return_when=asyncio.FIRST_COMPLETED)
            assert recorded.is_set() and not beating.done()
        finally:
            beating.cancel()
            waiting.cancel()
            await asyncio.wait({beating, waiting})
            on_ledger.shut_down()

    asyncio.run(work())
