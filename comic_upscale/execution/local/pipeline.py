"""The pipeline: pages flow through stages, each a few coroutines between queues with bounds.

::

    feed ─▶ decode ─▶ assemble ─▶ upscale ─▶ encode ─▶ place ─▶ record ─▶ bind
    ledger  workers   (no task)   1 thread   workers   workers  ledger    1 thread,
    thread                        a device                      thread    volumes

A page that fails leaves its stage as a value and goes straight to *record*. Any other exception of a
stage ends the run: the task group cancels the rest, and the caller records why.

A stop lets pages that have reached a device go on to their record; those that have not are dropped and
stay pending.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.base import Engine, interrupt
from comic_upscale.engines.pages import finish, prepare, upscale_pages
from comic_upscale.errors import ANIMATED, ComicUpscaleError, DeviceError, InputError, PageError
from comic_upscale.execution.events import STAGES, Listener, Progress, RateMeter, StageMeter
from comic_upscale.execution.local.flow import CEILING, BatchAssembler, PixelBudget, StopRequest, total_memory
from comic_upscale.execution.local.quality_gate import SMALLEST, SUSPECT, QualityGate, recorded_scores
from comic_upscale.gate.verdict import Verdict
from comic_upscale.imaging.decode import decode, read_header
from comic_upscale.imaging.encode import check_encoded, check_target, encode, left_out, lossy_quality
from comic_upscale.imaging.formats import extension_of, written_format
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.shrink import shrink
from comic_upscale.imaging.target_size import describe_growth, find_target, grows, is_larger
from comic_upscale.jobs.deduplication import Deduplicator, Key, copied_notes, read_output
from comic_upscale.jobs.volume_writer import VolumeWriter
from comic_upscale.ledger.async_ledger import AsyncLedger
from comic_upscale.ledger.records import LARGE_ENOUGH, PageDone, PageFailed, PageResult, PageSkipped
from comic_upscale.ledger.writer import Ledger, OutputOwner
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.planning.plan import Plan, PlannedPage, may_write
from comic_upscale.planning.volumes import PlannedVolume
from comic_upscale.settings.job import JobSettings, OutputFormat
from comic_upscale.settings.sizes import Print
from comic_upscale.storage.local import OutputFolder, place_output, read_source, to_the_end

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

PIXEL_BUDGET = 96_000_000
"""Output pixels in flight for each accelerator: some 40 pages of 1280 x 1920, at most about 600 MB decoded and
encoded."""
WORKER_BUDGET = 24_000_000
"""Output pixels in flight for each worker beside an accelerator, where that is more: large scans, too, shall keep all
at work."""
MEMORY_BYTES = 32
"""Of the machine's memory for each output pixel in flight, at least: what is in flight takes a quarter at most."""

CLAIM_PAGES = 16
"""Pages that are claimed in the ledger in one transaction."""

TICK_SECONDS = 0.5

BUSY_ENOUGH = 0.5
"""A stage that is less busy than this holds nobody back."""


def pixel_budget(workers: int, engines: Sequence[Engine]) -> int:
    """Return how many output pixels may be in flight, from decoding to their place."""
    cards = sum(not engine.info.device.is_cpu for engine in engines)
    if not cards:
        # The processor is at work in any case.
        return PIXEL_BUDGET
    wanted = max(PIXEL_BUDGET * cards, WORKER_BUDGET * workers)
    return max(PIXEL_BUDGET, min(wanted, total_memory() // MEMORY_BYTES))


@dataclass(slots=True)
class PageInFlight:
    """A page on its way, with what the stages so far have made of it."""

    page: PlannedPage
    data: bytes | None = None
    """The source, where it was read before its turn: pages of a solid archive are read in their order."""
    size: tuple[int, int] = (0, 0)
    target: tuple[int, int] = (0, 0)
    budget: int = 0
    sha256: str = ""
    ready: float = 0.0
    """When the last stage was done with it, by `time.perf_counter`."""
    waited: dict[str, float] = field(default_factory=dict)
    pixels: Pixels | None = None
    before: Pixels | None = None
    """As the network was given it, kept for the gate."""
    lane: int = 0
    """Which of the engines did it."""
    verdict: Verdict | None = None
    original: Mapping[str, Any] | None = None
    """The row of the same page whose output this one gets."""
    copied_from: str | None = None
    """The source of that page."""
    encoded: bytes = b""
    output_sha256: str = ""
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


_Queue: TypeAlias = "asyncio.Queue[PageInFlight | None]"
"""None says that nothing follows; each reader puts it back for the next."""


class Pipeline:
    """Takes the pages of a plan through all stages; used once.

    Args:
        settings: of the job.
        fingerprint: of the job.
        plan: what there is to do, and the counts to begin from.
        source_folders: where the pages really are; nothing is written there.
        shelf: reads the pages that are in volumes.
        binder: puts volumes together once their pages are settled.
        engines: one for each device, all taking from the same pages.
        ledger: open on its thread.
        ledger_thread: that thread.
        run_id: the run to record under.
        emit: takes the events.
        stop: asks for a graceful stop.
        spending: the meter that may call for one before a batch; None where nothing is paid.
    """

    def __init__(
        self,
        *,
        settings: JobSettings,
        fingerprint: str,
        plan: Plan,
        source_folders: frozenset[str],
        shelf: VolumeCache,
        binder: VolumeWriter,
        engines: Sequence[Engine],
        ledger: Ledger,
        ledger_thread: AsyncLedger,
        run_id: int,
        emit: Listener,
        stop: StopRequest,
        spending: Spending | None = None,
    ) -> None:
        self._settings = settings
        self._spending = spending
        self._fingerprint = fingerprint
        self._plan = plan
        self._shelf = shelf
        self._binder = binder
        self._engines = engines
        self._ledger = ledger
        self._on_ledger = ledger_thread
        self._run_id = run_id
        self._emit = emit
        self._stop = stop
        workers = settings.workers
        self._to_decode: _Queue = asyncio.Queue(workers)
        self._assembler: BatchAssembler[PageInFlight] = BatchAssembler()
        # Bounded by `_next_batch`: what a device has done is not to wait for the encoders on the device.
        self._to_encode: _Queue = asyncio.Queue()
        self._to_place: _Queue = asyncio.Queue(workers)
        self._results: asyncio.Queue[PageResult | None] = asyncio.Queue(64)
        self._to_bind: asyncio.Queue[PlannedVolume | None] = asyncio.Queue()
        self._budget = PixelBudget(pixel_budget(workers, engines))
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._devices = [ThreadPoolExecutor(1, thread_name_prefix="device") for _ in engines]
        self._meters = {stage: StageMeter(workers) for stage in STAGES}
        self._meters["upscale"] = StageMeter(len(engines))
        self._rate = RateMeter()
        self._gatekeeper = QualityGate(engines[0].info if engines else None)
        self._twins: Deduplicator[PageInFlight] = Deduplicator(
            plan.twins.sizes,
            {(sha256, self._format_of(output)): row_id for row_id, sha256, output in plan.twins.done},
        )
        self._encoding = asyncio.Event()
        self._largest_batch = 1
        self._freed: _Queue = asyncio.Queue()
        self._in_hand: str | None = None
        self._output = OutputFolder(settings.output)
        self._source_folders = source_folders
        self.done = 0
        """Pages done by this run."""
        self.copied = 0
        """Those of them whose outputs were copied from the same page."""
        self.doing: str | None = None
        """What the run does besides pages, in words."""
        self._adopted = 0
        self._failed_now = 0
        self._skipped_now = 0

    async def run(self) -> None:
        """Do the plan, or as much of it as a stop allows.

        Raises:
            OutputError, InputError, DeviceError, LedgerError: what ended the run early.
        """
        try:
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(self._tick())
                recorder = group.create_task(self._record())
                group.create_task(self._bind())
                async with asyncio.TaskGroup() as stages:
                    stages.create_task(self._feed())
                    stages.create_task(self._stage(self._to_decode, self._decode, self._end_decoding))
                    stages.create_task(self._resume_waiting())
                    stages.create_task(self._upscale_all())
                    stages.create_task(self._stage(self._to_encode, self._encode, self._end(self._to_place)))
                    stages.create_task(self._stage(self._to_place, self._place, lambda: None))
                await self._results.put(None)
                await recorder
                await self._to_bind.put(None)
                ticker.cancel()
        except* ComicUpscaleError as group_error:
            raise _first(group_error) from None
        finally:
            if sys.exc_info()[0] is not None:
                # The threads of the devices are waited for: what they do is of no use any more.
                for engine in self._engines:
                    interrupt(engine)
            self._workers.shutdown(cancel_futures=True)
            for thread in self._devices:
                thread.shutdown(cancel_futures=True)

    # The stages, in the order in which a page meets them

    async def _feed(self) -> None:
        for volume in self._binder.ready():
            await self._to_bind.put(volume)
        todo = self._plan.todo
        for start in range(0, len(todo), CLAIM_PAGES):
            if self._stop.requested:
                break
            claimed, adopted, refused = await self._on_ledger(self._claim, todo[start : start + CLAIM_PAGES])
            self._adopted += len(adopted)
            for row_id in adopted:
                self._settle(row_id)
            for failure in refused:
                await self._results.put(failure)
            for page in claimed:
                await self._feed_page(PageInFlight(page))
        await self._to_decode.put(None)

    async def _feed_page(self, work: PageInFlight) -> None:
        """Hand a page on; one of a volume that is read from front to back is read here, in its turn."""
        member = work.page.member
        if member is not None and self._shelf.in_order(member.volume):
            if self._stop.requested:
                return
            try:
                work.data = await self._read(work)
            except PageError as error:
                await self._fail(work, error)
                return
        await self._to_decode.put(work)

    def _claim(self, pages: Sequence[PlannedPage]) -> tuple[list[PlannedPage], list[int], list[PageFailed]]:
        """Claim pages whose outputs may be written; runs on the ledger's thread."""
        claimed: list[PlannedPage] = []
        adoptions: list[tuple[PlannedPage, OutputOwner]] = []
        refused: list[PageFailed] = []
        for page in pages:
            try:
                owner = may_write(
                    self._ledger,
                    page,
                    input=self._settings.input,
                    output_folder=self._settings.output,
                    fingerprint=self._fingerprint,
                    overwrite=self._settings.overwrite,
                    source_folders=self._source_folders,
                )
            except PageError as error:
                refused.append(_failure(PageInFlight(page), error))
                continue
            except OSError as error:
                reason = f"the output cannot be looked at: {error.strerror or error}"
                refused.append(_failure(PageInFlight(page), PageError("output", reason)))
                continue
            if owner is None:
                claimed.append(page)
            else:
                adoptions.append((page, owner))
        for page, owner in adoptions:
            self._ledger.adopt(page.row_id, owner)
        self._ledger.claim(
            self._run_id, self._settings.output, [(page.row_id, page.output) for page in claimed]
        )
        return claimed, [page.row_id for page, _ in adoptions], refused

    async def _decode(self, work: PageInFlight) -> None:
        if self._stop.requested:
            return
        data, work.data = work.data if work.data is not None else await self._read(work), None
        header = await self._in_workers("decode", work, read_header, data)
        work.size = (header.width, header.height)
        bounds = self._settings.skip_larger_than
        if bounds is not None and is_larger(work.size, bounds):
            reason = f"larger than {bounds}: {work.size[0]}x{work.size[1]} already"
            await self._results.put(_skipped(work, LARGE_ENOUGH, reason))
            return
        if header.width * header.height <= self._settings.max_pixels and await self._shared(work, data):
            return
        self._set_target(work)
        if header.width * header.height <= self._settings.max_pixels:
            check_target(*work.target, self._format(work))
            most = max(work.target[0] * work.target[1], header.width * header.height)
            work.budget = await self._budget.take(most)
        pixels = await self._in_workers("decode", work, self._decoded, work, data)
        work.pixels = pixels
        if self._settings.gate and grows(work.size, work.target) and self._gatekeeper.wants(pixels):
            work.before = pixels
        work.ready = time.perf_counter()
        work.notes = (*pixels.notes, *work.notes)
        if grows(work.size, work.target):
            self._assembler.add((pixels.color.shape, pixels.bits, pixels.alpha is None, work.target), work)
        else:
            await self._to_encode.put(work)

    async def _shared(self, work: PageInFlight, data: bytes) -> bool:
        """Whether a page needs no work of its own: it waits for the same one, or has got its output."""
        if not self._twins.may_have(len(data)):
            return False
        if not work.sha256:
            work.sha256 = await self._in_workers("decode", work, _sha256, data)
        key = (work.sha256, self._format(work))
        if not self._twins.begin(key, work.page.row_id, work, data):
            return True
        if not await self._take_over(work, key):
            return False
        self._release_duplicates(work.page.row_id)
        work.ready = time.perf_counter()
        await self._to_place.put(work)
        return True

    async def _take_over(self, work: PageInFlight, key: Key) -> bool:
        """Give a page the output of the same one, if one is done that this run would make just so."""
        row_id = self._twins.done(key)
        if row_id is None:
            return False
        page = await self._on_ledger(self._ledger.done_page, row_id)
        if page is not None and page["source_sha256"] == work.sha256 and self._is_as_good(page):
            work.budget = await self._budget.take(page["output_width"] * page["output_height"])
            output = await self._in_workers("decode", work, read_output, self._settings.output, page)
            if output is not None:
                work.encoded, work.output_sha256, work.original = output, page["output_sha256"], page
                work.size = (page["width"], page["height"])
                work.target = (page["output_width"], page["output_height"])
                work.copied_from, work.notes = page["source"], copied_notes(page)
                return True
            self._drop([work])
        self._twins.forget(key)
        return False

    def _is_as_good(self, page: Mapping[str, Any]) -> bool:
        """Whether a page that is done was looked at as this run looks at its pages."""
        settings, size = self._settings, (page["width"], page["height"])
        if settings.strict and page["suspect"]:
            return False
        judged = min(size) >= SMALLEST and grows(size, (page["output_width"], page["output_height"]))
        return bool(page["scores"]) or not (settings.gate and judged)

    def _release_duplicates(self, row_id: int, *, done: bool = False) -> None:
        """Free the pages that waited for a page that is settled."""
        works, data = self._twins.settled(row_id, done=done)
        for work in works:
            work.data = data
            self._freed.put_nowait(work)

    async def _resume_waiting(self) -> None:
        """Take on the pages that have waited for others."""
        while (work := await self._freed.get()) is not None:
            await self._attempt(self._decode, work)
            self._twins.went_on()

    async def _end_decoding(self) -> None:
        await self._twins.until_nobody_waits()
        self._freed.put_nowait(None)
        self._assembler.close()

    async def _read(self, work: PageInFlight) -> bytes:
        """The bytes of a page's source."""
        member = work.page.member
        try:
            if member is None:
                return await to_the_end(read_source(work.page.path, self._workers))
            return await self._in_workers("decode", work, self._shelf.read, member.volume, member.index)
        except PageError:
            if not self._settings.input.exists():
                raise InputError(
                    f"{self._settings.input} is gone: moved away, or its drive. Put it back, then run the same "
                    "command again"
                ) from None
            raise

    def _set_target(self, work: PageInFlight) -> None:
        """Settle what size a page shall have, and note what a person should know of it."""
        size = self._settings.asked_size
        target = find_target(*work.size, size)
        work.target, work.notes = target.size, target.notes
        # By a scale all pages grow alike, and the header of the run says how.
        if self._settings.size is not None:
            how = describe_growth(work.size, work.target, self._engines[0].info.native_scale)
            work.notes += () if how is None else (how,)

    def _format(self, work: PageInFlight) -> OutputFormat:
        return self._format_of(work.page.output)

    def _format_of(self, output: str) -> OutputFormat:
        return written_format(extension_of(output), self._settings.format)

    def _decoded(self, work: PageInFlight, data: bytes) -> Pixels:
        settings = self._settings
        pixels = decode(
            data,
            max_pixels=settings.max_pixels,
            gray=settings.gray_mode,
            icc=settings.icc,
            animated=settings.animated,
        )
        work.sha256 = work.sha256 or _sha256(data)
        if (pixels.width, pixels.height) != work.size:
            # A file that says only behind its pixels how they lie.
            work.size = (pixels.width, pixels.height)
            self._set_target(work)
        pixels = prepare(pixels)
        return pixels if grows(work.size, work.target) else shrink(pixels, work.target)

    async def _upscale_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for lane in range(len(self._engines)):
                group.create_task(self._upscale(lane))
        await self._to_encode.put(None)

    async def _upscale(self, lane: int) -> None:
        engine = self._engines[lane]

        def limit(work: PageInFlight) -> int:
            return engine.batch_limit(work.size[1], work.size[0])

        while works := await self._next_batch(limit):
            self._watch_spending(sum(work.size[0] * work.size[1] for work in works))
            if self._stop.requested:
                self._drop(works)
                for work in works:
                    self._release_duplicates(work.page.row_id)
                continue
            self._in_hand = works[0].page.source
            for work in await self._upscaled(lane, works):
                await self._to_encode.put(work)

    async def _next_batch(self, limit: Callable[[PageInFlight], int]) -> list[PageInFlight]:
        """Take a batch once no more than one of each device waits for the encoders: so a stop costs a batch or two."""
        while self._to_encode.qsize() > self._settings.workers + self._largest_batch * len(self._engines):
            self._encoding.clear()
            await self._encoding.wait()
        works = await self._assembler.take(limit)
        self._largest_batch = max(self._largest_batch, len(works))
        return works

    async def _run_engine(
        self, lane: int, pages: list[Pixels], target: tuple[int, int], *, conservative: bool = False
    ) -> list[Pixels | PageError]:
        """Take pages of one shape through the network of a device."""
        engine = self._engines[lane]
        self._meters["upscale"].begin()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._devices[lane], partial(upscale_pages, engine, pages, target, conservative=conservative)
            )
        except ComicUpscaleError:
            raise
        except MemoryError:
            return [PageError("out-of-memory", "not enough memory for this page")] * len(pages)
        except Exception as error:
            log.exception("the engine failed")
            raise DeviceError(
                f"the network failed on {engine.info.device} in an unforeseen way: {error!r}. Run the same command "
                "again; if it fails again, try --device cpu or --precision fp32, and report it"
            ) from error
        finally:
            self._meters["upscale"].end()

    async def _upscaled(self, lane: int, works: list[PageInFlight]) -> list[PageInFlight]:
        """Take pages through the network; those that fail are recorded, the others returned."""
        pages = [work.pixels for work in works if work.pixels is not None]
        start = time.perf_counter()
        results = await self._run_engine(lane, pages, works[0].target)
        ended = time.perf_counter()
        seconds = (ended - start) / len(works)
        if self._spending is not None:
            self._spending.note_batch(sum(work.size[0] * work.size[1] for work in works), ended - start)
        good = []
        for work, result in zip(works, results, strict=True):
            work.seconds["upscale"] = seconds
            work.waited["upscale"] = start - work.ready
            work.ready = ended
            if isinstance(result, PageError):
                await self._fail(work, result)
            else:
                work.pixels, work.lane = result, lane
                work.notes = _joined(work.notes, result.notes)
                good.append(work)
        return good

    async def _encode(self, work: PageInFlight) -> None:
        self._encoding.set()
        left_device = work.ready
        if work.before is not None:
            await self._look(work, work.before)
            work.before = None
        work.encoded, work.output_sha256 = await self._in_workers("encode", work, self._encoded, work)
        ended = time.perf_counter()
        work.waited["encode"] = max(ended - left_device - work.seconds["encode"], 0.0)
        work.ready = ended
        await self._to_place.put(work)

    async def _look(self, work: PageInFlight, before: Pixels) -> None:
        """Hold a page against its source; a suspect one is done again by the conservative path, once.

        Raises:
            PageError: it stays suspect, and the settings are strict.
        """
        assert work.pixels is not None
        work.pixels, verdict = await self._in_workers(
            "encode", work, self._gatekeeper.finished, before, work.pixels
        )
        if self._gatekeeper.wants_again(verdict):
            again = (await self._run_engine(work.lane, [before], work.target, conservative=True))[0]
            if not isinstance(again, PageError):
                page, second = await self._in_workers(
                    "encode", work, self._gatekeeper.finished, before, again
                )
                self._gatekeeper.note_again(second)
                # Only where it helped: what a run makes of a page must not hang on which pages it met before.
                if not second.is_suspect:
                    work.pixels, verdict = page, second
                    work.notes = _joined(work.notes, (*again.notes, "done again: it came out suspect"))
        work.verdict = verdict
        if verdict.is_suspect and self._settings.strict:
            raise PageError(SUSPECT, "; ".join(verdict.reasons))

    def _encoded(self, work: PageInFlight) -> tuple[bytes, str]:
        pixels, work.pixels = work.pixels, None
        assert pixels is not None
        pixels = finish(pixels)
        settings, format = self._settings, self._format(work)
        work.notes = (*work.notes, *left_out(pixels, format, settings.format))
        data = encode(
            pixels,
            format=format,
            quality=lossy_quality(pixels, format, settings.format, settings.quality),
            png_level=settings.png_level,
            dpi=settings.size.dpi if isinstance(settings.size, Print) else None,
        )
        # Gone before the check decodes a second copy: a large page has over a gigabyte.
        del pixels
        check_encoded(data, work.target)
        return data, hashlib.sha256(data).hexdigest()

    async def _place(self, work: PageInFlight) -> None:
        start = time.perf_counter()
        work.waited["place"] = start - work.ready
        self._meters["place"].begin()
        try:
            self._output.check()
            await self._placed(work)
        finally:
            self._meters["place"].end()
        work.seconds["place"] = time.perf_counter() - start
        if self._spending is not None and work.original is None:
            after = ("encode", "place")
            self._spending.note_tail(sum(work.seconds[stage] + work.waited[stage] for stage in after))
        self._drop([work])
        await self._results.put(_result(work))

    async def _placed(self, work: PageInFlight) -> None:
        target = self._settings.output / work.page.output
        await to_the_end(place_output(work.encoded, target, work.page.row_id, self._workers))

    async def _record(self) -> None:
        """Write results to the ledger, as many in a transaction as have come, and tell of them."""
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
                await self._on_ledger(self._ledger.record, results)
                for result in results:
                    self._count(result)
                    self._emit(result)
                    self._settle(result.row_id)
                    self._release_duplicates(result.row_id, done=isinstance(result, PageDone))

    def _settle(self, row_id: int) -> None:
        """Note that a page needs no more work; the last one of a volume sends this to be bound."""
        volume = self._binder.settled(row_id)
        if volume is not None:
            self._to_bind.put_nowait(volume)

    async def _bind(self) -> None:
        while (volume := await self._to_bind.get()) is not None:
            self._output.check()
            await self._binder.bind(volume)

    # What the stages share

    async def _stage(
        self,
        source: _Queue,
        step: Callable[[PageInFlight], Awaitable[None]],
        at_end: Callable[[], Awaitable[None] | None],
    ) -> None:
        """Run a stage: as many coroutines as there are workers, until the source ends."""

        async def worker() -> None:
            while (work := await source.get()) is not None:
                await self._attempt(step, work)
            source.put_nowait(None)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.workers):
                group.create_task(worker())
        if (last := at_end()) is not None:
            await last

    async def _attempt(self, step: Callable[[PageInFlight], Awaitable[None]], work: PageInFlight) -> None:
        """Take a page through a step; whatever hits this page alone becomes its failure."""
        try:
            await step(work)
        except PageError as error:
            await self._fail(work, error)
        except MemoryError:
            await self._fail(work, PageError("out-of-memory", "not enough memory for this page"))
        except ComicUpscaleError:
            raise
        except Exception as error:
            # Nobody foresaw it, but one strange file must not end a run.
            log.exception("%s failed on %s", step.__name__, work.page.source)
            await self._fail(work, PageError("internal", f"an unforeseen error: {error!r}"))

    @staticmethod
    def _end(queue: _Queue) -> Callable[[], Awaitable[None]]:
        return lambda: queue.put(None)

    async def _in_workers(
        self, stage: str, work: PageInFlight, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function in the pool of workers, counted as a page's time in a stage."""

        def timed() -> tuple[T, float]:
            start = time.perf_counter()
            return function(*args, **kwargs), time.perf_counter() - start

        self._meters[stage].begin()
        try:
            result, seconds = await asyncio.get_running_loop().run_in_executor(self._workers, timed)
        finally:
            self._meters[stage].end()
        work.seconds[stage] = work.seconds.get(stage, 0.0) + seconds
        return result

    def _drop(self, works: Sequence[PageInFlight]) -> None:
        """Give back what pages took from the budget."""
        for work in works:
            self._budget.give_back(work.budget)
            work.budget = 0
            work.pixels = work.before = None

    async def _fail(self, work: PageInFlight, error: PageError) -> None:
        self._drop([work])
        skipped = error.kind == ANIMATED
        await self._results.put(
            _skipped(work, error.kind, error.reason) if skipped else _failure(work, error)
        )

    def _count(self, result: PageResult) -> None:
        copied = isinstance(result, PageDone) and result.copied_from is not None
        self.copied += copied
        if not copied:
            # A copy says nothing of how long the pages to come will take.
            self._rate.count()
        if isinstance(result, PageDone):
            self.done += 1
            return
        if isinstance(result, PageSkipped):
            self._skipped_now += 1
            return
        self._failed_now += 1
        limit = self._settings.max_failures
        if limit is not None and limit.exceeded(self._failed_now, self._plan.total):
            self._stop.request(f"more pages failed than --max-failures {limit} allows")

    def _watch_spending(self, pixels: int = 0) -> None:
        """Ask for a stop where so many more input pixels could cost more than the job may."""
        if self._spending is not None and not self._spending.allows(pixels):
            self._stop.request(self._spending.why(), CEILING)

    # Telling how it goes

    async def _tick(self) -> None:
        while True:
            self._watch_spending()
            self._emit(self.progress())
            await asyncio.sleep(TICK_SECONDS)

    def progress(self) -> Progress:
        """How far the run is at this moment."""
        pending = len(self._plan.todo) - self.done - self._adopted - self._failed_now - self._skipped_now
        rate = self._rate.rate()
        busy = {stage: round(meter.sample(), 3) for stage, meter in self._meters.items()}
        stage, share = max(busy.items(), key=lambda item: item[1], default=("", 0.0))
        return Progress(
            total=self._plan.total,
            done=self._plan.done + self._adopted + self.done,
            failed=self._plan.failed + self._failed_now,
            skipped=self._plan.skipped + self._skipped_now,
            pending=pending,
            pages_per_second=None if rate is None else round(rate, 4),
            eta_seconds=round(pending / rate, 1) if rate else None,
            in_hand=self._in_hand,
            bottleneck=stage if share >= BUSY_ENOUGH else None,
            busy=busy,
            stopping=self._stop.reason,
            doing=self.doing,
        )


def _joined(notes: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Return notes with more of them, each once."""
    return tuple(dict.fromkeys((*notes, *more)))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _scores(work: PageInFlight) -> dict[str, float]:
    if work.verdict is not None:
        return recorded_scores(work.verdict)
    recorded = None if work.original is None else work.original["scores"]
    return json.loads(recorded) if recorded else {}


def _suspect(work: PageInFlight) -> tuple[str, ...]:
    if work.verdict is not None:
        return work.verdict.reasons
    recorded = None if work.original is None else work.original["suspect"]
    return (recorded,) if recorded else ()


def _result(work: PageInFlight) -> PageDone:
    return PageDone(
        row_id=work.page.row_id,
        source=work.page.source,
        output=work.page.output,
        source_sha256=work.sha256,
        width=work.size[0],
        height=work.size[1],
        output_width=work.target[0],
        output_height=work.target[1],
        output_size=len(work.encoded),
        output_sha256=work.output_sha256,
        seconds=work.seconds,
        notes=work.notes,
        waited={stage: round(seconds, 4) for stage, seconds in work.waited.items()},
        scores=_scores(work),
        suspect=_suspect(work),
        copied_from=work.copied_from,
    )


def _skipped(work: PageInFlight, kind: str, reason: str) -> PageSkipped:
    return PageSkipped(
        row_id=work.page.row_id,
        source=work.page.source,
        kind=kind,
        reason=reason,
        width=work.size[0],
        height=work.size[1],
        seconds=work.seconds,
    )


def _failure(work: PageInFlight, error: PageError) -> PageFailed:
    return PageFailed(
        row_id=work.page.row_id,
        source=work.page.source,
        kind=error.kind,
        reason=error.reason,
        seconds=work.seconds,
    )


def _first(group: BaseExceptionGroup[ComicUpscaleError]) -> ComicUpscaleError:
    """The first plain error of a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ComicUpscaleError)
    return error
