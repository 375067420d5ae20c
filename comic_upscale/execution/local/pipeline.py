"""The pipeline of this machine: pages flow through stages, each a few coroutines between bounded queues.

::

    tasks ─▶ decode ─▶ assemble ─▶ upscale ─▶ encode ─▶ outcomes
             workers   (no task)   1 or 2     workers
                                   threads
                                   an engine

A page that fails leaves its stage as a value and goes straight to the outcomes. Any other exception of a stage ends
the pipeline: the task group cancels the rest.

After a stop, pages that have reached a device continue to their outcome. The others are dropped without one.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.base import EnginePart, FinishPlan
from comic_upscale.errors import CeilingError, ComicUpscaleError, DeviceError, PageError, first_error
from comic_upscale.execution.base import Activity, PageOutcome, PageTask, as_page_error
from comic_upscale.execution.budget import Budget
from comic_upscale.execution.local.devices import Devices
from comic_upscale.execution.local.flow import BatchAssembler, BatchLimits
from comic_upscale.execution.local.networks import Networks
from comic_upscale.execution.local.page import PageInFlight, input_pixels
from comic_upscale.execution.local.steps import Encoded, Finished, Handover, PageSteps
from comic_upscale.execution.local.workers import Workers
from comic_upscale.execution.quality_gate import SUSPECT, QualityGate
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.ledger.records import LARGE_ENOUGH, PageProgress
from comic_upscale.library.page_rules import Network
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.answers import AskingPage

MOST_OUTCOMES = 64
"""Outcomes that wait to be taken; also bounds failures, which hold no budget."""

_Queue: TypeAlias = "asyncio.Queue[PageInFlight | None]"
"""None marks the end; each reader puts it back for the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The resources of a pipeline, from the opening of its executor to the end."""

    settings: JobSettings
    """Of the job."""
    steps: PageSteps
    networks: Networks
    workers: Workers
    spending: Spending | None
    """Asked before each batch; None without a price."""
    activity: Activity
    """Records the page in progress."""


class Pipeline:
    """Runs tasks through all stages; used once.

    Args:
        tools: the resources.
        stop: requests an early end.
    """

    def __init__(self, tools: Tools, stop: StopRequest) -> None:
        self._tools = tools
        self._stop = stop
        workers = tools.workers.count
        # A task may hold the file of its page, and no budget counts tasks in this queue.
        self._to_decode: _Queue = asyncio.Queue(1)
        self._assembler: BatchAssembler[PageInFlight] = BatchAssembler()
        # Bounded by `_next_batch` instead: a device must not wait for the encoders to take its results.
        self._to_encode: _Queue = asyncio.Queue()
        self._encoding = asyncio.Event()
        self._largest_batch = 1
        self._last_networks: dict[int, Network] = {}
        self._in_progress: Counter[int] = Counter()
        """Batches of each device."""
        self._batches_ended: Counter[int] = Counter()
        """Of each device."""
        self._limits = BatchLimits()
        self._ended: dict[tuple[Network, int], float] = {}
        """When the last batch of each engine of a network ended, by `time.perf_counter`."""
        self._outcomes: asyncio.Queue[tuple[PageOutcome, int] | None] = asyncio.Queue(MOST_OUTCOMES)
        self._budget = Budget(tools.networks.base.pixel_budget(workers))

    async def process(self, tasks: AsyncIterator[PageTask]) -> AsyncGenerator[PageOutcome, None]:
        """Process tasks until their end or a stop; see `Executor.process`."""
        # In a task of its own: a task group must not be open where a generator yields.
        stages = asyncio.create_task(self._run_stages(tasks))
        stages.add_done_callback(self._end)
        try:
            while (item := await self._outcomes.get()) is not None:
                yield item[0]
                self._budget.give_back(item[1])
                # An output is large, and the next one may take long.
                del item
            await stages
        finally:
            stages.cancel()
            await asyncio.wait({stages})

    async def _run_stages(self, tasks: AsyncIterator[PageTask]) -> None:
        try:
            async with asyncio.TaskGroup() as stages:
                stages.create_task(self._feed(tasks))
                stages.create_task(self._stage(self._to_decode, self._decode, self._end_decoding))
                stages.create_task(self._upscale_all())
                stages.create_task(self._stage(self._to_encode, self._encode, self._end_encoding))
        except* ComicUpscaleError as group_error:
            raise first_error(group_error) from None

    def _end(self, stages: asyncio.Task[None]) -> None:
        """After an error, wake the reader of outcomes, since none will follow; outcomes not taken are lost."""
        if stages.cancelled() or stages.exception() is not None:
            while not self._outcomes.empty():
                self._outcomes.get_nowait()
            self._outcomes.put_nowait(None)

    # The stages, in the order of a page

    async def _feed(self, tasks: AsyncIterator[PageTask]) -> None:
        async for task in tasks:
            if self._stop.requested:
                break
            await self._to_decode.put(PageInFlight(task))
        await self._to_decode.put(None)

    async def _decode(self, page: PageInFlight) -> None:
        if self._stop.requested:
            return
        steps, workers = self._tools.steps, self._tools.workers
        source = await page.task.read()
        page.add_seconds("decode", source.seconds)
        header = await workers.run("decode", page, steps.read_header, source.data)
        page.size = (header.width, header.height)
        if (reason := steps.skip_reason(page.size)) is not None:
            await self._outcomes.put((page.skipped(LARGE_ENOUGH, reason), 0))
            return
        size = steps.find_size(page.size)
        page.budget = await self._budget.take(steps.pixels_in_flight(size, page.task.format))
        decoded = await workers.compute(
            "decode", page, "decode", source.data, size, page.task.sha256, page.task.source, page.task.points
        )
        page.matches, page.network, page.own_settings = decoded.matches, decoded.network, decoded.own_settings
        pixels, size, page.sha256 = decoded.pixels, decoded.size, decoded.sha256
        page.pixels, page.size, page.target = pixels, size.source, size.target
        if self._tools.settings.gate and size.needs_network and QualityGate.wants(pixels):
            page.before = pixels
        page.ready = time.perf_counter()
        page.notes = (*pixels.notes, *size.notes)
        if size.needs_network:
            self._assembler.add(page.batch_key, page)
        else:
            await self._to_encode.put(page)

    async def _end_decoding(self) -> None:
        self._assembler.close()

    async def _upscale_all(self) -> None:
        spending = self._tools.spending
        # The time of a batch is known at its end, and below a ceiling the next one must not have begun before.
        one_by_one = spending is not None and spending.most is not None
        async with asyncio.TaskGroup() as group:
            devices = self._tools.networks.base
            for engine_index in range(len(devices)):
                for _ in range(1 if one_by_one else devices.batches_at_once(engine_index)):
                    group.create_task(self._upscale(engine_index))
        await self._to_encode.put(None)

    async def _upscale(self, engine_index: int) -> None:
        """Take batches until the last, or until the device fails and others can go on."""
        devices = self._tools.networks.base
        pages: list[PageInFlight] = []
        try:
            while pages := await self._next_batch(engine_index):
                # It may have been lost with another batch, while this one was awaited.
                was_lost = not devices.works(engine_index)
                try:
                    if not was_lost:
                        await self._process_batch(engine_index, pages)
                finally:
                    self._in_progress[engine_index] -= 1
                if was_lost:
                    self._assembler.put_back(pages[0].batch_key, pages)
                    return
                self._assembler.done()
                pages = []
                if not devices.works(engine_index):
                    return
        except DeviceError as error:
            if not devices.give_up(engine_index):
                raise
            if pages:
                for page in pages:
                    page.add_notes((f"upscaled on another device, since one failed: {error}",))
                self._assembler.put_back(pages[0].batch_key, pages)

    async def _process_batch(self, engine_index: int, pages: list[PageInFlight]) -> None:
        """Run a batch and hand its pages on; after a stop, drop them.

        Raises:
            DeviceError: the device failed. Then nothing of the batch was handed on.
        """
        await self._stop.while_paused()
        self._check_spending(input_pixels(pages))
        if self._stop.requested:
            for page in pages:
                self._drop(page)
            return
        self._tools.activity.in_hand = pages[0].task.source
        try:
            upscaled = await self._upscale_batch(engine_index, pages)
        except CeilingError as error:
            self._stop.request(str(error), CEILING)
            for page in pages:
                self._drop(page)
            return
        for page in upscaled:
            await self._to_encode.put(page)

    async def _next_batch(self, engine_index: int) -> list[PageInFlight]:
        """Take a batch once at most one per engine waits for the encoders, so that a stop costs only a few batches.

        Pages for the network that the device used last come first, since another may have to be opened.
        """
        networks = self._tools.networks
        limit = self._tools.workers.count + self._largest_batch * len(networks.base)
        while self._to_encode.qsize() > limit:
            self._encoding.clear()
            await self._encoding.wait()
        pages = await self._assembler.take(
            lambda page: self._batch_limit(engine_index, page),
            prefers=lambda page: self._last_networks.get(engine_index, page.network) == page.network,
            is_idle=lambda: not self._in_progress[engine_index],
        )
        if pages:
            self._in_progress[engine_index] += 1
            self._last_networks[engine_index] = pages[0].network
        self._largest_batch = max(self._largest_batch, len(pages))
        return pages

    def _batch_limit(self, engine_index: int, page: PageInFlight) -> int:
        """Return the batch size of a device for pages like this one."""
        return self._limits.find(
            (engine_index, page.network, page.size),
            self._batches_ended[engine_index],
            is_idle=not self._in_progress[engine_index],
            ask=lambda: self._tools.networks.batch_limit(page.network, engine_index, page.size),
        )

    async def _upscale_batch(self, engine_index: int, pages: list[PageInFlight]) -> list[PageInFlight]:
        """Run pages through the network; put out the outcomes of failed pages, and return the others."""
        before = [page.pixels for page in pages if page.pixels is not None]
        lane = engine_index
        async with self._tools.networks.use(pages[0].network) as devices:
            engine_index %= len(devices)
            start = time.perf_counter()
            results = await self._run_engine(
                devices, engine_index, pages, before, finish_plan=self._plan_finish(pages)
            )
            ended = time.perf_counter()
        # A second batch waits for the device until the first has ended.
        engine = (pages[0].network, engine_index)
        seconds = ended - max(start, self._ended.get(engine, start))
        self._ended[engine] = ended
        self._batches_ended[lane] += 1
        if self._tools.spending is not None:
            self._tools.spending.note_batch(input_pixels(pages), seconds)
        upscaled = []
        for page, result in zip(pages, results, strict=True):
            page.seconds["upscale"] = seconds / len(pages)
            page.waited["upscale"] = start - page.ready
            page.ready = ended
            if isinstance(result, PageError):
                await self._fail(page, result)
            else:
                page.pixels, page.engine_index = result, engine_index
                page.add_notes(result.notes)
                page.engine_notes, page.answers = result.notes, result.answers
                upscaled.append(page)
        return upscaled

    def _plan_finish(self, pages: list[PageInFlight]) -> FinishPlan | None:
        """Return how an engine that can do so finishes the pages of a batch; None if only the host can."""
        first = pages[0]
        assert first.pixels is not None
        channels = first.pixels.color.shape[2]
        steps = self._tools.steps
        png_rows = all(steps.wants_png_rows(page.task.format, page.target, page.matches) for page in pages)
        if first.before is None:
            return FinishPlan(None, png_rows)
        measures = self._tools.networks.gate(first.network).plan_measures(
            first.before.color.shape, (first.target[1], first.target[0], channels)
        )
        return None if measures is None else FinishPlan(measures, png_rows)

    async def _run_engine(
        self,
        devices: Devices,
        engine_index: int,
        pages: list[PageInFlight],
        pixels: list[Pixels],
        *,
        conservative: bool = False,
        finish_plan: FinishPlan | None = None,
    ) -> list[Pixels | PageError]:
        """Run pages through an engine. What it tells meanwhile is of the first: such engines take one page."""
        within, task, target = self._tools.activity.within, pages[0].task, pages[0].target
        loop = asyncio.get_running_loop()

        def note(part: EnginePart) -> None:
            within[task.row_id] = PageProgress(
                source=task.source, unit=part.unit, done=round(part.done, 3), total=part.total
            )

        def note_from_thread(part: EnginePart) -> None:
            loop.call_soon_threadsafe(note, part)

        try:
            return await devices.run_engine(
                engine_index, pixels, target, conservative=conservative, finish_plan=finish_plan,
                on_part=note_from_thread, asking=AskingPage(task.row_id, task.source),
            )  # fmt: skip
        finally:
            within.pop(task.row_id, None)

    async def _encode(self, page: PageInFlight) -> None:
        self._encoding.set()
        left_device = page.ready
        encoded = await self._finish(page)
        page.notes = (*page.notes, *encoded.notes)
        page.waited["encode"] = max(time.perf_counter() - left_device - page.seconds["encode"], 0.0)
        budget, page.budget = page.budget, 0
        await self._outcomes.put((page.upscaled(encoded.data, encoded.sha256), budget))

    async def _finish(self, page: PageInFlight) -> Encoded:
        """Compare a page with its source, and encode it; upscale a suspect page once more, by the conservative path.

        Raises:
            PageError: it stays suspect, and the settings are strict.
        """
        workers, target, format = self._tools.workers, page.target, page.task.format
        raw, page.pixels = Handover(page.pixels), None
        before, page.before = page.before, None
        if before is None:
            return await workers.compute("encode", page, "encode", raw, target, format, page.matches)
        networks = self._tools.networks
        gate = networks.gate(page.network)
        judged = (target, format, gate, page.matches)
        first = await workers.compute("encode", page, "finish", before, raw, *judged)
        page.verdict = first.verdict
        if first.encoded is not None:
            return first.encoded
        fallback = networks.fallback(page.network)
        if fallback is not None and gate.wants_fallback(first.verdict):
            encoded = await self._finish_with_fallback(page, before, first, fallback)
            if encoded is not None:
                return encoded
        if gate.wants_again(first.verdict, is_kept=bool(page.answers)):
            again = await self._upscale_again(page, before, page.network, conservative=True)
            if not isinstance(again, PageError):
                notes, raw = again.notes, Handover(again)
                del again
                second = await workers.compute("encode", page, "finish", before, raw, *judged)
                gate.note_again(second.verdict)
                # Only if it helped: an output must not depend on the pages that the run processed before.
                if second.encoded is not None:
                    page.verdict = second.verdict
                    # What was said of the first output is no longer true.
                    page.notes = tuple(note for note in page.notes if note not in page.engine_notes)
                    page.add_notes((*notes, "upscaled again, since the first result was suspect"))
                    return second.encoded
        if self._tools.settings.strict:
            raise PageError(SUSPECT, "; ".join(first.verdict.reasons))
        return await workers.compute(
            "encode", page, "encode", Handover(first.pixels), target, format, page.matches
        )

    async def _finish_with_fallback(
        self, page: PageInFlight, before: Pixels, first: Finished, fallback: Network
    ) -> Encoded | None:
        """Encode a page with invented texture: what the fallback network makes of it, if that has much less.

        Where the fallback network draws the same, the source holds it, such as screentone that fades out. Then the
        first result is right after all.

        Returns:
            None if the fallback network failed or could not be opened, or its result is suspect for another reason.
        """
        workers, target, format = self._tools.workers, page.target, page.task.format
        networks = self._tools.networks
        try:
            again = await self._upscale_again(page, before, fallback)
        except ComicUpscaleError as error:
            # The run does not depend on it. A device that is lost fails its next batch, too.
            networks.leave_out(fallback, error)
            return None
        if isinstance(again, PageError):
            return None
        notes, raw = again.notes, Handover(again)
        del again
        gate = networks.fallback_gate(fallback)
        second = await workers.compute(
            "encode", page, "finish", before, raw, target, format, gate, page.matches
        )
        if not second.verdict.has_half_the_texture_of(first.verdict):
            page.verdict = first.verdict.cleared()
            return await workers.compute(
                "encode", page, "encode", Handover(first.pixels), target, format, page.matches
            )
        encoded = second.encoded
        if encoded is None and not second.verdict.only_invents:
            return None
        # What is left of the texture may be in the source.
        page.verdict = second.verdict.cleared()
        if encoded is None:
            encoded = await workers.compute(
                "encode", page, "encode", Handover(second.pixels), target, format, page.matches
            )
        page.notes = tuple(note for note in page.notes if note not in page.engine_notes)
        page.add_notes(
            (
                *notes,
                f"upscaled again with {fallback[0]}: {page.network[0]} drew {'; '.join(first.verdict.reasons)}",
            )
        )
        return encoded

    async def _upscale_again(
        self, page: PageInFlight, before: Pixels, network: Network, *, conservative: bool = False
    ) -> Pixels | PageError:
        """Return a page from another pass, by another device if its own has failed.

        Args:
            page: the page.
            before: the input of the network.
            network: the network to use.
            conservative: whether to use the most conservative path.

        Raises:
            DeviceError: no device works.
        """
        while True:
            async with self._tools.networks.use(network) as devices:
                engine_index = devices.instead_of(page.engine_index % len(devices))
                try:
                    (again,) = await self._run_engine(
                        devices, engine_index, [page], [before], conservative=conservative
                    )
                except DeviceError:
                    if not devices.give_up(engine_index):
                        raise
                else:
                    return again

    async def _end_encoding(self) -> None:
        await self._outcomes.put(None)

    # Shared by the stages

    async def _stage(
        self,
        source: _Queue,
        step: Callable[[PageInFlight], Awaitable[None]],
        at_end: Callable[[], Awaitable[None]],
    ) -> None:
        """Run a stage: one coroutine per worker, until the source ends."""

        async def worker() -> None:
            while (page := await source.get()) is not None:
                try:
                    await step(page)
                except Exception as error:
                    await self._fail(page, as_page_error(error, page.task.source))
            source.put_nowait(None)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._tools.workers.count):
                group.create_task(worker())
        await at_end()

    def _check_spending(self, pixels: int) -> None:
        """Request a stop if a batch of this many input pixels could exceed the cost ceiling."""
        spending = self._tools.spending
        if spending is not None and not spending.allows(pixels):
            self._stop.request(spending.why(), CEILING)

    def _drop(self, page: PageInFlight) -> None:
        """Release the budget and the memory of a page."""
        self._budget.give_back(page.budget)
        page.budget = 0
        page.pixels = page.before = None

    async def _fail(self, page: PageInFlight, error: PageError) -> None:
        self._drop(page)
        await self._outcomes.put((page.failed(error), 0))
