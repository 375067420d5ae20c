"""The pages of a run: from the plan through an executor to the ledger, the same for every executor.

``plan → intake → executor.process(tasks) → recorder(outcomes)``
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from comic_upscale.errors import ComicUpscaleError, first_error
from comic_upscale.execution.base import Executor
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.intake import Intake
from comic_upscale.jobs.progress import OpenPages, Tally
from comic_upscale.jobs.recorder import Recorder
from comic_upscale.jobs.volume_writer import VolumeWriter

TICK_SECONDS = 0.5


async def process_pages(context: JobContext, executor: Executor, volume_writer: VolumeWriter) -> Tally:
    """Do the plan of a run, or as much of it as a stop allows, and return what was counted.

    Args:
        context: of the run.
        executor: open; it stays so.
        volume_writer: writes the volumes whose pages are done.

    Raises:
        OutputError, InputError, DeviceError, RemoteError, LedgerError: what ended the run early.
    """
    try:
        return await _Process(context, executor, volume_writer).run()
    except* ComicUpscaleError as group_error:
        raise first_error(group_error) from None


class _Process:
    def __init__(self, context: JobContext, executor: Executor, volume_writer: VolumeWriter) -> None:
        self._context = context
        self._executor = executor
        self._tally = Tally(context.plan)
        self._open = OpenPages()
        self._recorder = Recorder(context, volume_writer, self._tally, self._open)
        self._intake = Intake(context, self._recorder, self._open)

    async def run(self) -> Tally:
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(self._tick())
            recording = group.create_task(self._recorder.run(self._intake.recorded))
            resuming = group.create_task(self._intake.resume())
            # Once before anything is begun: making ready may have used up the money.
            self._context.is_at_ceiling()
            await self._process(group)
            # What waited for a page that failed.
            while self._intake.has_more and not self._context.stop.requested:
                await self._process(group)
            await self._recorder.finish()
            await recording
            ticking.cancel()
            resuming.cancel()
        return self._tally

    async def _process(self, group: asyncio.TaskGroup) -> None:
        """One round: the tasks that there are now, until each of them is recorded."""
        feeding = group.create_task(self._intake.feed())
        async with aclosing(self._executor.process(self._intake.tasks(), self._context.stop)) as outcomes:
            async for outcome in outcomes:
                await self._recorder.take(outcome)
                # An output is large, and the next one may take long.
                del outcome
        # After a stop nobody takes what it has prepared.
        feeding.cancel()
        await self._open.wait()

    async def _tick(self) -> None:
        while True:
            self._context.is_at_ceiling()
            busy = self._executor.busy()
            # A page is read for its first stage, whoever computes it.
            busy["decode"] = min(1.0, busy.get("decode", 0.0) + self._intake.busy())
            if not self._executor.is_remote:
                busy["place"] = self._recorder.busy()
            stopping = self._context.stop.reason
            self._context.emit(self._tally.progress(self._executor.activity, busy, stopping))
            await asyncio.sleep(TICK_SECONDS)
