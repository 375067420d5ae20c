"""The intake of a run: claims pages, reads ahead where needed, and makes tasks without duplicates.

::

    plan ─▶ claim ─▶ prepare ─▶ tasks
            ledger   threads

*Prepare* finds duplicates. A page that waited for a duplicate that failed becomes a task itself: in the same round
while there are pages to claim, else in another round.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from comic_upscale.errors import PageError
from comic_upscale.execution.base import CRASH, PageTask, SourceBytes, as_page_error, run_in, sha256_of_source
from comic_upscale.execution.budget import Budget
from comic_upscale.execution.events import StageMeter
from comic_upscale.imaging.formats import extension_of, output_extension, written_format
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.deduplication import Deduplicator, Key, copy_output
from comic_upscale.jobs.page_watch import PageWatch
from comic_upscale.jobs.progress import OpenPages
from comic_upscale.jobs.recorder import Recorder
from comic_upscale.jobs.volume_levels import VolumeLevels
from comic_upscale.ledger.records import OutputOwner
from comic_upscale.library.page_rules import PageRules
from comic_upscale.planning.output_checks import PlannedPage, may_write
from comic_upscale.settings.job import FormatName
from comic_upscale.settings.places import is_bucket

T = TypeVar("T")
P = ParamSpec("P")

CLAIM_PAGES = 16
"""Pages that are claimed in the ledger in one transaction."""

READ_AHEAD_BYTES = 64 << 20
"""Bytes of pages that are read before an executor takes them; a larger page waits alone.

There are two such budgets, 64 MiB each: for pages that are read in order, and for possible duplicates. Pages are read
in order while they are claimed. With one budget, they would take it from a page before them that waits for it.
"""


@dataclass(slots=True)
class _Incoming:
    """A claimed page that is not a task yet."""

    page: PlannedPage
    key: Key | None = None
    """Decides its output; None unless the page may have duplicates."""
    is_first: bool = False
    """Whether it is the first page in flight with its key."""
    data: bytes | None = None
    """Its file, if it was read ahead."""
    budget: Budget | None = None
    """What its bytes were taken from."""
    taken: int = 0
    """How many they are."""
    seconds: float = 0.0
    """Thread time spent on it, in seconds."""
    points: tuple[int, int] | None = None
    """As in `PageTask`."""


@dataclass(frozen=True, slots=True)
class _Claims:
    """The result of claiming pages."""

    claimed: list[PlannedPage]
    """Pages that this run now processes."""
    adopted: list[int]
    """Rows of pages that another job has done."""
    refused: list[tuple[PlannedPage, PageError]]
    """Pages whose outputs must not be written, and why."""


class PageReader:
    """Reads the files of pages, and measures how busy the threads are.

    Args:
        context: of the run.
    """

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._meter = StageMeter(context.settings.workers)

    async def read(self, page: PlannedPage) -> SourceBytes:
        """Return the file of a page, from the input or from its volume.

        Raises:
            PageError: the page cannot be read.
            InputError: the whole input is gone.
        """
        if page.member is None:
            return SourceBytes(await self._context.sources.read(page))
        return SourceBytes(*await self._timed(self._context.sources.read_now, page))

    async def hash(self, data: bytes) -> tuple[str, float]:
        """Return the SHA-256 of the file of a page, and the seconds for hashing it."""
        return await self._timed(sha256_of_source, data)

    def reads_in_order(self, page: PlannedPage) -> bool:
        """Return whether a page is in a volume that must be read from front to back."""
        return self._context.sources.in_order(page)

    def busy(self) -> float:
        """Return how busy unpacking and hashing are, 0 to 1."""
        return self._meter.sample()

    async def _timed(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
        def timed() -> tuple[T, float]:
            start = time.perf_counter()
            return function(*args, **kwargs), time.perf_counter() - start

        self._meter.begin()
        try:
            return await run_in(self._context.files, timed)
        finally:
            self._meter.end()


class Intake:
    """Turns the pages of a plan into tasks. Used on the thread of the event loop.

    Args:
        context: of the run.
        recorder: takes pages that need no executor: refused, adopted, unreadable, copied.
        open_pages: counts the pages that resume after waiting for a duplicate.
    """

    def __init__(self, context: JobContext, recorder: Recorder, open_pages: OpenPages) -> None:
        self._context = context
        self._recorder = recorder
        self._open = open_pages
        self._reader = PageReader(context)
        self._todo = iter(context.plan.todo)
        self._again: list[_Incoming] = []
        self._in_order, self._to_identify = Budget(READ_AHEAD_BYTES), Budget(READ_AHEAD_BYTES)
        self._ready: asyncio.Queue[_Incoming | None] = asyncio.Queue(context.settings.workers)
        self._released: asyncio.Queue[_Incoming] = asyncio.Queue()
        self._rules = PageRules(context.settings)
        self._levels = VolumeLevels(context)
        self._watch = context.watch
        self._in_flight: dict[int, str] = {}
        self._none_in_flight = asyncio.Event()
        self._none_in_flight.set()
        if self._watch is not None:
            self._watch.plan([page.source for page in context.plan.todo])
        duplicates = context.plan.duplicates
        self._deduplicator: Deduplicator[_Incoming] = Deduplicator(
            duplicates.sizes,
            {
                (sha256, self._variant_of(source, output)): row_id
                for row_id, sha256, source, output in duplicates.done
            },
        )

    @property
    def has_more(self) -> bool:
        """Whether released pages need another round."""
        return bool(self._again)

    async def feed(self) -> None:
        """Claim and prepare the pages of a round, for `tasks`.

        Raises:
            InputError: the input is gone.
            LedgerError: the ledger cannot be used.
        """
        to_prepare: asyncio.Queue[_Incoming | None] = asyncio.Queue(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claim_all(to_prepare))
            for _ in range(self._context.settings.workers):
                group.create_task(self._prepare_all(to_prepare))
        await self._ready.put(None)

    async def tasks(self) -> AsyncIterator[PageTask]:
        """Yield the tasks of a round, while `feed` runs."""
        while (incoming := await self._ready.get()) is not None:
            await self._context.stop.while_paused()
            if self._context.stop.requested:
                self._give_back(incoming)
                continue
            # From here on the executor owns the bytes that were read ahead.
            self._give_back(incoming)
            if self._watch is None or await self._begin(self._watch, incoming.page):
                yield self._task(incoming)

    async def _begin(self, watch: PageWatch, page: PlannedPage) -> bool:
        """Tell the watch that a page begins; return False if it does not.

        The watch may refuse the page, which then has failed. After a stop, the page waits for another run.
        """
        if (reason := watch.refuse(page.source)) is not None:
            await self._recorder.take_failure(page, PageError(CRASH, reason))
            return False
        # A stop drops pages in flight without an outcome.
        if watch.is_careful and await self._context.stop.comes_before(self._none_in_flight):
            return False
        self._in_flight[page.row_id] = page.source
        self._none_in_flight.clear()
        watch.begin(page.source)
        return True

    def recorded(self, row_id: int, done: bool) -> None:
        """Release the pages that waited for a page that is now recorded."""
        source = self._in_flight.pop(row_id, None)
        if self._watch is not None and source is not None:
            self._watch.end(source, done=done)
            if not self._in_flight:
                self._none_in_flight.set()
        for incoming in self._deduplicator.settle(row_id, done=done):
            self._open.begin()
            self._released.put_nowait(incoming)

    async def resume(self) -> None:
        """Resume released pages, until cancelled."""
        while True:
            incoming = await self._released.get()
            if not self._context.stop.requested:
                await self._attempt(self._resume, incoming)
            self._open.end()

    def busy(self) -> float:
        """How busy reading is, 0 to 1."""
        return self._reader.busy()

    # Claiming

    async def _claim_all(self, to_prepare: asyncio.Queue[_Incoming | None]) -> None:
        async def enqueue(incoming: _Incoming) -> None:
            # A volume that is read from front to back is read here, in order; other pages are read when needed.
            if self._reader.reads_in_order(incoming.page):
                await self._read_ahead(incoming, self._in_order)
            await to_prepare.put(incoming)

        while not self._context.stop.requested:
            pages = list(itertools.islice(self._todo, CLAIM_PAGES))
            again, self._again = self._again, []
            if not pages and not again:
                break
            for incoming in [*again, *map(_Incoming, await self._claim(pages))]:
                if not self._context.stop.requested:
                    await self._attempt(enqueue, incoming)
        await to_prepare.put(None)

    async def _claim(self, pages: Sequence[PlannedPage]) -> list[PlannedPage]:
        """Claim pages, and return those that this run processes."""
        if not pages:
            return []
        claims = await self._context.on_ledger(self._write_claims, pages)
        for row_id in claims.adopted:
            self._recorder.take_adopted(row_id)
        for page, error in claims.refused:
            await self._recorder.take_failure(page, error)
        return claims.claimed

    def _write_claims(self, pages: Sequence[PlannedPage]) -> _Claims:
        """Claim pages whose outputs may be written; runs on the thread of the ledger."""
        context, settings = self._context, self._context.settings
        claims = _Claims([], [], [])
        adoptions: list[tuple[PlannedPage, OutputOwner]] = []
        for page in pages:
            try:
                owner = may_write(
                    partial(context.ledger.owners, settings.output),
                    page,
                    settings=settings,
                    fingerprint=context.fingerprint,
                    sources=context.sources,
                    outputs=context.stores.outputs,
                    source_folders=context.source_folders,
                )
            except PageError as error:
                claims.refused.append((page, error))
                continue
            if owner is None:
                claims.claimed.append(page)
            else:
                adoptions.append((page, owner))
        for page, owner in adoptions:
            context.ledger.adopt(page.row_id, owner)
            claims.adopted.append(page.row_id)
        rows = [(page.row_id, page.output) for page in claims.claimed]
        context.ledger.claim(context.run_id, settings.output, rows)
        return claims

    # Preparing

    async def _prepare_all(self, to_prepare: asyncio.Queue[_Incoming | None]) -> None:
        while (incoming := await to_prepare.get()) is not None:
            if not self._context.stop.requested:
                await self._attempt(self._prepare, incoming)
        to_prepare.put_nowait(None)

    async def _prepare(self, incoming: _Incoming) -> None:
        """Pass a page on, unless it is a duplicate of a page in flight or done."""
        incoming.points = await self._levels.of(incoming.page.source, incoming.page)
        if not incoming.is_first and self._deduplicator.may_have_duplicates(incoming.page.size):
            await self._identify(incoming)
            if not await self._admit(incoming):
                return
        await self._ready.put(incoming)

    async def _identify(self, incoming: _Incoming) -> None:
        await self._read_ahead(incoming, self._to_identify)
        assert incoming.data is not None
        sha256, seconds = await self._reader.hash(incoming.data)
        incoming.seconds += seconds
        incoming.key = (sha256, self._variant_of(incoming.page.source, incoming.page.output))

    async def _admit(self, incoming: _Incoming) -> bool:
        """Return whether to compute a page: False if it waits for a duplicate, or gets a copy of its output."""
        assert incoming.key is not None
        row_id = incoming.page.row_id
        while not self._deduplicator.waits(incoming.key, incoming):
            original = self._deduplicator.done(incoming.key)
            if original is None:
                self._deduplicator.begin(incoming.key, row_id)
                incoming.is_first = True
                return True
            copy = await copy_output(
                self._context,
                original,
                row_id=row_id,
                source_sha256=incoming.key[0],
                seconds=incoming.seconds,
            )
            if copy is not None:
                self._drop(incoming)
                await self._recorder.take(copy.outcome, copied_from=copy.copied_from)
                return False
            self._deduplicator.forget(incoming.key, original)
        self._drop(incoming)
        return False

    async def _resume(self, incoming: _Incoming) -> None:
        if await self._admit(incoming):
            self._again.append(incoming)

    async def _read_ahead(self, incoming: _Incoming, budget: Budget) -> None:
        if incoming.data is None:
            incoming.taken = await budget.take(incoming.page.size)
            incoming.budget = budget
            source = await self._reader.read(incoming.page)
            incoming.data = source.data
            incoming.seconds += source.seconds

    async def _attempt(self, step: Callable[[_Incoming], Awaitable[None]], incoming: _Incoming) -> None:
        """Run a step for a page; an error that affects only this page becomes its failure."""
        try:
            await step(incoming)
        except Exception as error:
            failure = as_page_error(error, incoming.page.source)
            self._drop(incoming)
            await self._recorder.take_failure(incoming.page, failure)

    # Shared

    def _task(self, incoming: _Incoming) -> PageTask:
        page = incoming.page
        return PageTask(
            row_id=page.row_id,
            source=page.source,
            format=self._format_of(page.source, page.output),
            extension=output_extension(self._rules.format_of(page.source), page.source),
            read=partial(self._read, incoming),
            sha256="" if incoming.key is None else incoming.key[0],
            points=incoming.points,
            address=page.path if page.member is None and is_bucket(page.path) else None,
        )

    async def _read(self, incoming: _Incoming) -> SourceBytes:
        """Return the file of a page, for an executor, and release it."""
        data, incoming.data = incoming.data, None
        if data is not None:
            return SourceBytes(data, incoming.seconds)
        source = await self._reader.read(incoming.page)
        return SourceBytes(source.data, source.seconds + incoming.seconds)

    def _format_of(self, source: str, output: str) -> FormatName:
        return written_format(extension_of(output), self._rules.format_of(source))

    def _variant_of(self, source: str, output: str) -> str:
        """Return what decides the output besides the content: its format, the rules for its path, its volume."""
        matches = self._rules.path_matches(source)
        folder = [source.rpartition("/")[0]] if self._context.settings.looks_at_volumes else []
        # Not joined by a character that a folder may have, too.
        return json.dumps([self._format_of(source, output), *matches, *folder])

    def _drop(self, incoming: _Incoming) -> None:
        """Release the bytes that were read ahead."""
        incoming.data = None
        self._give_back(incoming)

    def _give_back(self, incoming: _Incoming) -> None:
        if incoming.budget is not None:
            incoming.budget.give_back(incoming.taken)
            incoming.budget = None
