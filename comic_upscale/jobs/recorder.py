"""The recorder of a run: places outputs, records outcomes, emits events, and has volumes written.

::

    outcomes ─▶ place ─▶ record ─▶ write volumes
                threads  ledger's  1 thread
                         thread

An output is in its place before the ledger records it, and the ledger is flushed before the event is emitted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from comic_upscale.errors import PageError
from comic_upscale.execution.base import (
    PageOutcome,
    PageUpscaled,
    StoredOutput,
    as_page_error,
    failed_page,
    run_in,
)
from comic_upscale.execution.events import StageMeter
from comic_upscale.execution.stop import FAILURES
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.progress import OpenPages, Tally
from comic_upscale.jobs.volume_writer import VolumeWriter
from comic_upscale.ledger.records import PageDone, PageFailed, PageResult
from comic_upscale.planning.output_checks import PlannedPage
from comic_upscale.planning.volumes import PlannedVolume
from comic_upscale.storage.answers import AskingPage
from comic_upscale.storage.base import size_of

HELD_BYTES = 32 << 20
"""Bytes of outputs that may wait to be placed before the next outcome is taken; a larger output is placed first."""

MOST_RESULTS = 64
"""Results that may wait for the ledger."""


@dataclass(frozen=True, slots=True)
class _ToPlace:
    """An output that is not in its place yet."""

    outcome: PageUpscaled
    copied_from: str | None


class Recorder:
    """Places outputs and records outcomes, as the only writer of the ledger. Used on the thread of the event loop.

    Args:
        context: of the run.
        volume_writer: writes volumes once their pages are settled.
        tally: counts results.
        open_pages: counts pages that were taken but not recorded yet.

    Raises:
        OutputError: the output folder cannot be written to.
    """

    def __init__(
        self,
        context: JobContext,
        volume_writer: VolumeWriter,
        tally: Tally,
        open_pages: OpenPages,
    ) -> None:
        self._context = context
        self._volume_writer = volume_writer
        self._tally = tally
        self._open = open_pages
        self._outputs = context.stores.outputs
        self._outputs.prepare()
        self._pages: dict[int, PlannedPage] = {page.row_id: page for page in context.plan.todo}
        workers = context.settings.workers
        self._to_place: asyncio.Queue[_ToPlace | None] = asyncio.Queue(workers)
        self._results: asyncio.Queue[PageResult | None] = asyncio.Queue(MOST_RESULTS)
        self._volumes: asyncio.Queue[PlannedVolume | None] = asyncio.Queue()
        self._answers: dict[int, tuple[str, ...]] = {}
        """The kept answers of pages that are placed and not recorded."""
        self._held = 0
        self._placed = asyncio.Event()
        self._meter = StageMeter(workers)

    async def run(self, on_recorded: Callable[[int, bool], None]) -> None:
        """Place outputs, record outcomes and write volumes, until `finish`.

        Args:
            on_recorded: called for each recorded page, with its row and whether it is done.

        Raises:
            OutputError: no more outputs can be written.
            LedgerError: the ledger cannot be used.
        """
        for volume in self._volume_writer.ready():
            self._volumes.put_nowait(volume)
        async with asyncio.TaskGroup() as stages:
            for _ in range(self._context.settings.workers):
                stages.create_task(self._place_all())
            stages.create_task(self._record_all(on_recorded))
            stages.create_task(self._write_volumes())

    async def take(self, outcome: PageOutcome, *, copied_from: str | None = None) -> None:
        """Take an outcome; return once there is room for the next one.

        Args:
            outcome: of a page of the plan.
            copied_from: the source of the original page, if this is a copy of its output.
        """
        self._open.begin()
        try:
            if not isinstance(outcome, PageUpscaled):
                await self._results.put(outcome)
                return
            await self._to_place.put(_ToPlace(outcome, copied_from))
        except asyncio.CancelledError:
            # It was not taken, so nobody must wait until it is recorded.
            self._open.end()
            raise
        self._held += len(outcome.data)
        while self._held > HELD_BYTES:
            self._placed.clear()
            await self._placed.wait()

    async def take_failure(self, page: PlannedPage, error: PageError) -> None:
        """Take the failure of a page."""
        await self.take(failed_page(page.row_id, page.source, error))

    def take_adopted(self, row_id: int) -> None:
        """Note a page that another job has done; the ledger already has it."""
        self._tally.adopted += 1
        self._settle(row_id)

    def busy(self) -> float:
        """Return how busy placing is, 0 to 1."""
        return self._meter.sample()

    async def finish(self) -> None:
        """Note that nothing follows; everything taken must already be recorded."""
        await self._to_place.put(None)
        await self._results.put(None)
        await self._volumes.put(None)

    # Placing

    async def _place_all(self) -> None:
        while (item := await self._to_place.get()) is not None:
            result = await self._place(item)
            self._held -= len(item.outcome.data)
            self._placed.set()
            # Released before waiting for the ledger.
            del item
            await self._results.put(result)
        self._to_place.put_nowait(None)

    async def _place(self, item: _ToPlace) -> PageResult:
        """Put an output in its place; an error that affects only this page becomes its failure."""
        outcome = item.outcome
        page = self._pages[outcome.row_id]
        start = time.perf_counter()
        self._meter.begin()
        try:
            if outcome.stored is None:
                await self._outputs.put(page.output, outcome.data, page.row_id)
            else:
                await run_in(self._context.files, self._move_stored, outcome.stored, page.output)
            if outcome.answers:
                asking = AskingPage(page.row_id, page.source)
                await run_in(self._context.files, self._context.answers.note, outcome.answers, asking)
        except Exception as error:
            failure = as_page_error(error, page.source)
            return failed_page(page.row_id, page.source, failure, seconds=outcome.seconds)
        finally:
            self._meter.end()
        if outcome.answers:
            self._answers[page.row_id] = outcome.answers
        return self._build_record(page, item, start, time.perf_counter())

    def _move_stored(self, stored: StoredOutput, name: str) -> None:
        """Give an output that is in the store its name.

        Raises:
            PageError: the object is not there, or is another one than the executor wrote.
        """
        self._outputs.relocate(stored.name, name)
        if size_of(self._outputs, name) != stored.size:
            self._outputs.delete([name])
            raise PageError("output", "the object that the cluster wrote is not complete")

    def _build_record(self, page: PlannedPage, item: _ToPlace, start: float, ended: float) -> PageDone:
        """Return the record of a page whose output was written from ``start`` to ``ended``."""
        outcome = item.outcome
        seconds, waited = dict(outcome.seconds), dict(outcome.waited)
        if outcome.made_at is not None:
            seconds["place"], waited["place"] = ended - start, start - outcome.made_at
            if item.copied_from is None:
                self._note_tail(seconds, waited)
        rounded = {stage: round(amount, 4) for stage, amount in waited.items()}
        return PageDone(
            **{**outcome.facts(), "seconds": seconds, "waited": rounded},
            source=page.source,
            output=page.output,
            output_size=outcome.size,
            output_sha256=outcome.sha256,
            copied_from=item.copied_from,
        )

    def _note_tail(self, seconds: dict[str, float], waited: dict[str, float]) -> None:
        """Report to the cost meter how long a page took from its device to its place."""
        if self._context.spending is not None:
            after = ("encode", "place")
            self._context.spending.note_tail(sum(seconds[stage] + waited[stage] for stage in after))

    # Recording

    async def _record_all(self, on_recorded: Callable[[int, bool], None]) -> None:
        """Write results to the ledger, all waiting ones in one transaction, and report them."""
        ended = False
        while not ended:
            results: list[PageResult] = []
            item = await self._results.get()
            while item is not None:
                results.append(item)
                if self._results.empty():
                    break
                item = self._results.get_nowait()
            ended = item is None
            if results:
                await self._record(results)
                for result in results:
                    on_recorded(result.row_id, isinstance(result, PageDone))
                    self._open.end()

    async def _record(self, results: list[PageResult]) -> None:
        context = self._context
        await context.on_ledger(context.ledger.record, results)
        for result in results:
            if answers := self._answers.pop(result.row_id, ()):
                context.files.submit(context.answers.forget, answers)
            self._tally.count(result)
            if isinstance(result, PageFailed):
                self._watch_failures()
            context.emit(result)
            self._settle(result.row_id)

    def _watch_failures(self) -> None:
        limit = self._context.settings.max_failures
        if limit is not None and limit.is_exceeded(self._tally.failed, self._context.plan.total):
            self._context.stop.request(f"more pages failed than --max-failures {limit} allows", FAILURES)

    # Volumes

    def _settle(self, row_id: int) -> None:
        """Note that a page is settled; after the last page of a volume, the volume is written."""
        volume = self._volume_writer.settle(row_id)
        if volume is not None:
            self._volumes.put_nowait(volume)

    async def _write_volumes(self) -> None:
        while (volume := await self._volumes.get()) is not None:
            self._outputs.check()
            await self._volume_writer.write(volume)
