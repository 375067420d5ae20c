"""Pages done elsewhere: the same job and the same ledger, with another machine in the place of the network.

Everything that a job knows stays here: names, volumes, sidecars, the ledger. The other machine is given
pages called by the hash of their content, and gives back pages called the same. So whatever it says, nothing
of it ever becomes a path; nothing is sent twice, since what is there is there under its hash; and a machine
that is lost costs only the pages that had not come home.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

from comic_upscale.errors import EXIT_CEILING, ComicUpscaleError, PageError, RemoteError
from comic_upscale.execution.events import StageMeter
from comic_upscale.execution.local.pipeline import (
    CLAIM_PAGES,
    PageInFlight,
    Pipeline,
    _first,
    _result,
    _skipped,
)
from comic_upscale.execution.remote_host import PollResult, RemoteHost, RemotePageResult, RemoteStep
from comic_upscale.execution.stop import CEILING
from comic_upscale.imaging.decode import read_header
from comic_upscale.imaging.encode import check_encoded
from comic_upscale.imaging.formats import output_extension
from comic_upscale.imaging.target_size import find_target
from comic_upscale.ledger.records import LEFT_AS_THEY_ARE, PageDone

T = TypeVar("T")
P = ParamSpec("P")

SEND_BYTES, SEND_PAGES = 32 << 20, 2000
"""What is sent in one piece: so much is sent again at most where the line breaks."""

FETCH_BYTES, FETCH_PAGES = 32 << 20, 100
"""What is fetched in one piece, and held in memory."""

MOST_STARTS = 3
"""A run elsewhere that dies so often without finishing a page is not started again."""

_ROOM_FOR_HEADERS = 1 << 20
_BYTES_A_PIXEL = 9
"""No format of ours needs more, with four channels of 16 bits; what claims to is not fetched."""


@dataclass(frozen=True)
class RemoteOptions:
    """A workplace, and what is asked of it."""

    workplace: RemoteHost
    ask: RemoteStep = "upscale"
    poll: float = 3.0
    """Seconds between two questions for what is new."""


@dataclass(slots=True)
class _Waiting:
    """Pages of one content, sent or to be sent."""

    works: list[PageInFlight]
    settled: RemotePageResult | None = None


class RemoteExecutor(Pipeline):
    """Takes the pages of a plan to a workplace and brings them home; used once.

    Args:
        elsewhere: the workplace, made ready.
        more: as for `Pipeline`, without engines.
    """

    def __init__(self, *, elsewhere: RemoteOptions, **more: Any) -> None:
        super().__init__(engines=[], **more)
        # What is read here is counted as decoding; the network and the encoders are elsewhere.
        self._meters = {"decode": StageMeter(self._settings.workers)}
        self._host = elsewhere.workplace
        self._step = elsewhere.ask
        self._poll = elsewhere.poll
        self._waiting: dict[str, _Waiting] = {}
        self._held: frozenset[str] = frozenset()
        self._told: list[RemotePageResult] = []
        self._told_names: set[str] = set()
        self._starts = self._told_at_start = 0
        self._retry = self._settings.retry_failed
        self._line = ThreadPoolExecutor(1, thread_name_prefix="remote")
        self._sent_bytes = self._sent_pages = 0

    async def run(self) -> None:
        """Do what is asked, as far as a stop allows.

        Raises:
            RemoteError: the other machine cannot do it.
            OutputError, InputError, LedgerError: what ended the run early.
        """
        try:
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(self._tick())
                recorder = group.create_task(self._record())
                group.create_task(self._bind())
                await self._go()
                if self._stop.kind == CEILING:
                    # What is paid for is the time there.
                    await self._on_line(self._host.stop)
                await self._results.put(None)
                await recorder
                await self._to_bind.put(None)
                ticker.cancel()
        except* ComicUpscaleError as group_error:
            raise _first(group_error) from None
        finally:
            self._line.shutdown(cancel_futures=True)
            self._workers.shutdown(cancel_futures=True)

    async def _go(self) -> None:
        await self._read_and_send()
        if self._step == "push" or self._stop.requested or not self._waiting:
            return
        if self._step == "pull":
            await self._poll_host()
            await self._bring_home()
            return
        await self._work_off()

    # There

    async def _read_and_send(self) -> None:
        """Read every page that is to be done, and send those that are not there yet."""
        self._held = held = await self._on_line(self._host.list_pages)
        batch: list[tuple[str, bytes]] = []
        size = 0
        async for name, data in self._named_pages():
            if name in held or self._step in ("run", "pull"):
                continue
            batch.append((name, data))
            size += len(data)
            if len(batch) >= SEND_PAGES or size >= SEND_BYTES:
                await self._send(batch)
                await self._work_meanwhile()
                batch, size = [], 0
        if self._step == "run" and (missing := self._waiting.keys() - held):
            raise RemoteError(
                f"{len(missing):,} pages are not there yet: `comic-upscale remote push` sends them"
            )
        if batch and not self._stop.requested:
            await self._send(batch)
        if not self._stop.requested:
            # What is no longer asked for must not be worked on.
            await self._on_line(self._host.delete, held - self._waiting.keys())
        self.doing = None

    async def _work_meanwhile(self) -> None:
        """Let the machine work on what it has while more is sent; its outputs come home after that.

        A run there knows the pages that were there when it began. So one that has ended is followed by the
        next, and a card waits for the line, not for its end.
        """
        if self._step != "upscale" or self._stop.requested:
            return
        result = await self._poll_host()
        if not result.alive:
            await self._start_once_more(result)

    async def _named_pages(self) -> AsyncIterator[tuple[str, bytes]]:
        """The pages to be done, claimed and read, each content once: (name, bytes)."""
        for volume in self._binder.ready():
            await self._to_bind.put(volume)
        todo = self._plan.todo
        for start in range(0, len(todo), CLAIM_PAGES):
            if self._stop.requested:
                return
            claimed, adopted, refused = await self._on_ledger(self._claim, todo[start : start + CLAIM_PAGES])
            self._adopted += len(adopted)
            for row_id in adopted:
                self._settle(row_id)
            for failure in refused:
                await self._results.put(failure)
            for work in map(PageInFlight, claimed):
                named = await self._named(work)
                if named is not None:
                    yield named

    async def _named(self, work: PageInFlight) -> tuple[str, bytes] | None:
        """Read a page, and return its name elsewhere with its bytes; None where that needs no sending."""
        try:
            data = await self._read(work)
            header = await self._in_pool(read_header, data)
        except PageError as error:
            await self._fail(work, error)
            return None
        work.size = (header.width, header.height)
        work.sha256 = hashlib.sha256(data).hexdigest()
        # Called as its output will be: pages of one content that become one output are one page there.
        name = f"{work.sha256}.{output_extension(self._settings.format, work.page.source)}"
        twins = self._waiting.setdefault(name, _Waiting([]))
        twins.works.append(work)
        return (name, data) if len(twins.works) == 1 else None

    async def _send(self, batch: list[tuple[str, bytes]]) -> None:
        await self._on_line(self._host.send, batch)
        self._sent_pages += len(batch)
        self._sent_bytes += sum(len(data) for _, data in batch)
        self.doing = f"{self._sent_pages:,} pages sent, {self._sent_bytes / 1e6:,.1f} MB"

    # And back

    async def _work_off(self) -> None:
        """Let the other machine work, bring home what it finishes, and see that it goes on."""
        self.doing = "the other machine works on the first pages"
        result = await self._poll_host()
        await self._bring_home()
        while not self._stop.requested:
            if not result.alive:
                if not self._retry and (self._starts or self._all_settled()):
                    await self._take_failures()
                if not self._open():
                    return
                await self._start_once_more(result)
            if self._step == "run":
                return
            await self._pause(self._poll if result.alive else min(self._poll, 1.0))
            result = await self._poll_host()
            await self._bring_home()

    async def _poll_host(self) -> PollResult:
        """RemoteStep what is new, and keep it for bringing it home."""
        result = await self._on_line(self._host.poll)
        self._told += result.pages
        # What was told last is told again with what is new.
        names = {page.name for page in result.pages}
        self._told_names |= names & (self._held | self._waiting.keys())
        return result

    async def _start_once_more(self, result: PollResult) -> None:
        """Let the next run begin there, unless the last one ended for a reason that it would meet again.

        Raises:
            RemoteError: it would, or several have ended without finishing a page.
        """
        if self._starts:
            await self._judge(result)
        if self._stop.requested:
            return
        if len(self._told_names) > self._told_at_start:
            self._starts = 0
        if self._starts >= MOST_STARTS:
            raise RemoteError(
                f"the run elsewhere ended {self._starts} times without finishing a page: "
                f"{await self._on_line(self._host.last_error)}"
            )
        self._told_at_start = len(self._told_names)
        retry, self._retry = self._retry, False
        await self._on_line(self._start, retry)
        self._starts += 1

    def _start(self, retry: bool) -> None:
        self._host.start(retry_failed=retry)

    async def _judge(self, result: PollResult) -> None:
        """Stop where the run elsewhere ended for a reason that starting it again does not mend."""
        if result.exit_code in (0, 1, None) or result.exit_code == 128 + 9:
            return
        said = await self._on_line(self._host.last_error)
        if result.exit_code == EXIT_CEILING:
            self._stop.request(f"the ceiling was reached elsewhere: {said}", CEILING)
            return
        if result.exit_code in (129, 130, 143):
            raise RemoteError(f"the run elsewhere was stopped: {said}. The same command continues it")
        raise RemoteError(f"the run elsewhere ended with exit code {result.exit_code}: {said}")

    async def _take_failures(self) -> None:
        """Record what the run that has ended could not do; before its end it might still try."""
        for waiting in self._waiting.values():
            said = waiting.settled
            if said is None or said.state == "done" or not waiting.works:
                continue
            works, waiting.works = waiting.works, []
            for work in works:
                if said.state == "skipped":
                    await self._results.put(_skipped(work, said.kind, said.reason))
                else:
                    await self._fail(work, PageError(said.kind, said.reason))

    async def _bring_home(self) -> None:
        """Fetch what was told of as done, check it and put it in its place; note what failed."""
        told, self._told = self._told, []
        wanted: dict[str, RemotePageResult] = {}
        for page in told:
            waiting = self._waiting.get(page.name)
            if waiting is None or not waiting.works:
                continue
            # Other skips are of earlier days: it was forgotten there for a while.
            if page.state == "skipped" and page.kind not in LEFT_AS_THEY_ARE:
                continue
            waiting.settled = page
            if page.state == "done":
                wanted[page.name] = page
        for batch in _batches(wanted):
            if self._stop.requested:
                return
            await self._bring_batch(batch)

    async def _bring_batch(self, batch: Mapping[str, RemotePageResult]) -> None:
        refused: dict[str, PageError] = {}
        sizes = {}
        for output, page in batch.items():
            try:
                self._check_promise(page)
                sizes[output] = page.size
            except PageError as error:
                refused[page.name] = error
        fetched = await self._on_line(self._fetched, sizes)
        for output in sizes.keys() - fetched.keys():
            refused[output] = PageError(
                "remote",
                "the other machine says that it is done, and gives no file; --retry-failed does it again",
            )
        for output, data in fetched.items():
            page = batch[output]
            try:
                await self._in_pool(_check, data, page)
            except PageError as error:
                refused[page.name] = error
                continue
            await self._put_in_place(page, data)
        if refused:
            # Its next run does them again, and no bad copy is taken for a good one.
            await self._on_line(self._host.delete, list(refused))
        for name, reason in refused.items():
            works, self._waiting[name].works = self._waiting[name].works, []
            for work in works:
                await self._fail(work, reason)

    def _fetched(self, sizes: Mapping[str, int]) -> dict[str, bytes]:
        return {name: data for name, data in self._host.fetch(sizes) if name in sizes}

    def _check_promise(self, page: RemotePageResult) -> None:
        """Refuse an output that cannot be this page's, before it is fetched."""
        width, height = self._waiting[page.name].works[0].size
        if (page.width, page.height) not in ((width, height), (height, width)):
            raise PageError("remote", "the other machine speaks of another page than the one that was sent")
        target = find_target(page.width, page.height, self._settings.asked_size).size
        if (page.output_width, page.output_height) != target:
            raise PageError(
                "remote", f"the other machine made {page.output_width}x{page.output_height} of it"
            )
        if not 0 < page.size <= target[0] * target[1] * _BYTES_A_PIXEL + _ROOM_FOR_HEADERS:
            raise PageError("remote", f"the other machine says that it has {page.size:,} bytes")

    async def _put_in_place(self, page: RemotePageResult, data: bytes) -> None:
        works, self._waiting[page.name].works = self._waiting[page.name].works, []
        for place, work in enumerate(works):
            work.encoded, work.output_sha256 = data, page.sha256
            work.size = (page.width, page.height)
            work.target = (page.output_width, page.output_height)
            work.notes = (page.notes,) if page.notes else ()
            if place == 0:
                work.seconds = dict(page.seconds)
            else:
                # The others cost nothing there: they are the same page.
                work.copied_from = works[0].page.source
            try:
                self._output.check()
                await self._placed(work)
            except PageError as error:
                await self._fail(work, error)
            else:
                await self._results.put(_as_judged(_result(work), page))
            self._in_hand, self.doing = work.page.source, None

    # What these share

    def _open(self) -> int:
        """Pages that are neither home nor given up."""
        return sum(len(waiting.works) for waiting in self._waiting.values())

    def _all_settled(self) -> bool:
        return all(waiting.settled is not None for waiting in self._waiting.values() if waiting.works)

    async def _on_line(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function on the thread that speaks with the other machine."""
        return await asyncio.get_running_loop().run_in_executor(self._line, lambda: function(*args, **kwargs))

    async def _in_pool(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._workers, lambda: function(*args, **kwargs)
        )

    async def _pause(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds * 5))):
            if self._stop.requested:
                return
            await asyncio.sleep(0.2)


def _batches(wanted: Mapping[str, RemotePageResult]) -> Iterator[dict[str, RemotePageResult]]:
    batch: dict[str, RemotePageResult] = {}
    size = 0
    for name, page in wanted.items():
        if batch and (len(batch) >= FETCH_PAGES or size + page.size > FETCH_BYTES):
            yield batch
            batch, size = {}, 0
        batch[name] = page
        size += page.size
    if batch:
        yield batch


def _as_judged(done: PageDone, page: RemotePageResult) -> PageDone:
    """A page as the gate elsewhere has marked it."""
    return replace(done, scores=dict(page.scores), suspect=(page.suspect,) if page.suspect else ())


def _check(data: bytes, page: RemotePageResult) -> None:
    """Compare a fetched output with what the ledger elsewhere recorded, and see that it decodes."""
    if len(data) != page.size or hashlib.sha256(data).hexdigest() != page.sha256:
        raise PageError(
            "remote", "what came is not what the ledger elsewhere recorded; --retry-failed does it again"
        )
    check_encoded(data, (page.output_width, page.output_height))
