"""Processing the pages of a run, the same for every executor.

``plan → intake → executor.process(tasks) → recorder(outcomes)``
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from comic_upscale.errors import ComicUpscaleError, first_error
from comic_upscale.execution.base import Executor
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.intake import Intake
from comic_upscale.jobs.progress import OpenPages, Tally
from comic_upscale.jobs.recorder import Recorder
from comic_upscale.jobs.volume_writer import VolumeWriter
from comic_upscale.ledger.pausing import paused_since

TICK_SECONDS = 0.5


async def process_pages(context: JobContext, executor: Executor, volume_writer: VolumeWriter) -> Tally:
    """Process the plan of a run until its end or a stop, and return the counts.

    Args:
        context: of the run.
        executor: open; it stays open.
        volume_writer: writes the volumes whose pages are done.

    Raises:
        OutputError, InputError, DeviceError, RemoteError, LedgerError: the run cannot go on.
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
            # Before the first page: preparing may have used up the budget.
            self._context.is_at_ceiling()
            await self._process(group)
            # Pages that waited for a duplicate that failed.
            while self._intake.has_more and not self._context.stop.requested:
                await self._process(group)
            await self._recorder.finish()
            await recording
            ticking.cancel()
            resuming.cancel()
        # The pages since the last tick: the run ends with the share that `status` shows.
        self._show({})
        return self._tally

    async def _process(self, group: asyncio.TaskGroup) -> None:
        """Process one round: all current tasks, until each is recorded."""
        feeding = group.create_task(self._intake.feed())
        async with aclosing(self._executor.process(self._intake.tasks(), self._context.stop)) as outcomes:
            async for outcome in outcomes:
                await self._recorder.take(outcome)
                # An output is large, and the next one may take a while.
                del outcome
        # After a stop, nobody takes the prepared tasks.
        feeding.cancel()
        await self._open.wait()

    async def _tick(self) -> None:
        stop, folder = self._context.stop, self._context.settings.folder
        while True:
            # On a thread: the output may be on a slow share.
            stop.is_paused = await asyncio.to_thread(paused_since, folder) is not None
            self._context.is_at_ceiling()
            busy = self._executor.busy()
            # Reading counts towards the first stage, whichever executor computes.
            busy["decode"] = min(1.0, busy.get("decode", 0.0) + self._intake.busy())
            if not self._executor.is_remote:
                busy["place"] = self._recorder.busy()
            self._show(busy)
            await asyncio.sleep(TICK_SECONDS)

    def _show(self, busy: Mapping[str, float]) -> None:
        stop, activity = self._context.stop, self._executor.activity
        self._context.emit(self._tally.progress(activity, busy, stop.reason, paused=stop.is_paused))
