"""The executor of a remote machine: pages are sent, worked on there, fetched and checked.

The remote machine is given pages called by the hash of their content, and gives back pages called the same. So
whatever it says, nothing of it ever becomes a path. Nothing is sent twice, since a page that is there is there under
its hash. A machine that is lost costs only the pages that had not been fetched.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.registry import prepare_engine
from comic_upscale.errors import EXIT_CEILING, PageError, RemoteError, SettingsError
from comic_upscale.execution.base import (
    Activity,
    ExecutorInfo,
    PageOutcome,
    PageTask,
    PageUpscaled,
    as_page_error,
    failed_page,
    run_in,
    sha256_of_source,
    skipped_page,
)
from comic_upscale.execution.events import Fetching, Listener, Preparing, Sending, StageMeter, from_thread
from comic_upscale.execution.remote_host import PollResult, RemoteHost, RemotePageResult, RemoteStep
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.imaging.decode import read_header
from comic_upscale.imaging.encode import check_encoded
from comic_upscale.imaging.target_size import find_target
from comic_upscale.ledger.records import LEFT_AS_THEY_ARE
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.sizes import Size

T = TypeVar("T")
P = ParamSpec("P")

SEND_BYTES, SEND_PAGES = 32 << 20, 2000
"""What is sent in one piece: at most this much is sent again where the connection breaks."""

FETCH_BYTES, FETCH_PAGES = 32 << 20, 100
"""What is fetched in one piece, and held in memory."""

MOST_STARTS = 3
"""A remote run that dies this often without finishing a page is not started again."""

_ROOM_FOR_HEADERS = 1 << 20
_BYTES_A_PIXEL = 9
"""No format of ours needs more, with four channels of 16 bits; what claims to is not fetched."""


@dataclass(frozen=True)
class RemoteOptions:
    """A remote machine, and what it is asked to do."""

    host: RemoteHost
    step: RemoteStep = "upscale"
    poll: float = 3.0
    """Seconds between two questions for what is new."""


@dataclass(slots=True)
class _Content:
    """Pages of one content and one extension: one page for the remote machine."""

    sha256: str
    """Of the content."""
    size: tuple[int, int] = (0, 0)
    """(width, height), upright."""
    tasks: list[PageTask] = field(default_factory=list)
    """Those that have no outcome yet."""
    told: RemotePageResult | None = None
    """What the machine said last of the page."""
    failure: PageError | None = None
    """Why it cannot be done, for every task with this content."""


class _Connection:
    """The one thread that speaks with the remote machine."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="remote")

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of the remote host."""
        return await run_in(self._thread, function, *args, **kwargs)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)


class _RemoteRun:
    """The run on the remote machine: whether it lives, what it has settled, and starting it again.

    Args:
        host: the remote machine.
        connection: to it.
        retry_failed: whether pages that failed there before are tried again.
    """

    def __init__(self, host: RemoteHost, connection: _Connection, *, retry_failed: bool) -> None:
        self._host = host
        self._connection = connection
        self._settled: set[str] = set()
        self._settled_at_start = 0
        self.starts = 0
        """How often it was started since a page was last finished."""
        self.retries = retry_failed
        """Whether its next start tries failed pages again."""

    async def poll(self, known: Collection[str]) -> PollResult:
        """Ask what is new.

        Args:
            known: names of pages that are there or were sent.
        """
        result = await self._connection.call(self._host.poll)
        # What was told last is told again with what is new.
        self._settled |= {page.name for page in result.pages if page.name in known}
        return result

    async def start_again(self, result: PollResult, stop: StopRequest) -> None:
        """Let the next run begin there, unless the last one ended for a reason that it would meet again.

        Args:
            result: what was new last: no run is alive.
            stop: asked for where the money has run out there.

        Raises:
            RemoteError: it would, or several have ended without finishing a page.
        """
        if self.starts:
            await self._judge(result, stop)
        if stop.requested:
            return
        if len(self._settled) > self._settled_at_start:
            self.starts = 0
        if self.starts >= MOST_STARTS:
            raise RemoteError(
                f"the run elsewhere ended {self.starts} times without finishing a page: "
                f"{await self._connection.call(self._host.last_error)}"
            )
        self._settled_at_start = len(self._settled)
        retry, self.retries = self.retries, False
        await self._connection.call(lambda: self._host.start(retry_failed=retry))
        self.starts += 1

    async def _judge(self, result: PollResult, stop: StopRequest) -> None:
        """Stop where the run ended for a reason that starting it again does not repair."""
        if result.exit_code in (0, 1, None) or result.exit_code == 128 + 9:
            return
        said = await self._connection.call(self._host.last_error)
        if result.exit_code == EXIT_CEILING:
            stop.request(f"the ceiling was reached elsewhere: {said}", CEILING)
            return
        if result.exit_code in (129, 130, 143):
            raise RemoteError(f"the run elsewhere was stopped: {said}. The same command continues it")
        raise RemoteError(f"the run elsewhere ended with exit code {result.exit_code}: {said}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """What a remote executor has once it is open."""

    device: str
    """What the machine computes with, in words."""
    size: Size
    """How large pages become."""
    run: _RemoteRun
    workers: ThreadPoolExecutor
    """Look at pages, and check outputs."""
    meter: StageMeter
    """How busy looking at pages is."""


class RemoteExecutor:
    """Does pages on a remote machine; an `Executor`.

    Args:
        remote: the machine, which stays open at the end.
    """

    is_remote = True

    def __init__(self, remote: RemoteOptions) -> None:
        self._host = remote.host
        self._step: RemoteStep = remote.step
        self._poll_seconds = remote.poll
        self._connection = _Connection()
        self._session: _Session | None = None
        self._contents: dict[str, _Content] = {}
        self._held: frozenset[str] | None = None
        self._told: list[RemotePageResult] = []
        self._sent_pages = self._sent_bytes = 0
        self.activity = Activity()

    async def has_accelerator(self, settings: JobSettings, on_progress: Listener) -> bool | None:
        """Ask the machine."""
        self._host.on_progress(from_thread(on_progress, Sending))
        return await self._connection.call(self._host.has_accelerator)

    async def open(
        self,
        settings: JobSettings,
        *,
        model: str,
        fingerprint: str,
        spending: Spending | None,
        on_progress: Listener,
    ) -> ExecutorInfo:
        """Install what is missing there, and send the weights; see `Executor.open`."""
        self._host.on_progress(from_thread(on_progress, Sending))
        weights = await asyncio.to_thread(prepare_engine, settings, from_thread(on_progress, Fetching))
        if weights is None:
            raise SettingsError(f"--engine {settings.backend} has no weights to send")
        on_progress(Preparing(what="making the other machine ready"))
        device = await self._connection.call(self._host.prepare, weights, fingerprint, settings)
        self._session = _Session(
            device=device.name,
            size=settings.size,
            run=_RemoteRun(self._host, self._connection, retry_failed=settings.retry_failed),
            workers=ThreadPoolExecutor(settings.workers, thread_name_prefix="worker"),
            meter=StageMeter(settings.workers),
        )
        return self.info()

    def info(self) -> ExecutorInfo:
        """Return what the machine said of itself."""
        return ExecutorInfo(
            device=self._opened().device,
            precision="",
            native_scale=None,
            step=None if self._step == "upscale" else self._step,
        )

    async def process(
        self, tasks: AsyncIterator[PageTask], stop: StopRequest
    ) -> AsyncGenerator[PageOutcome, None]:
        """Send tasks, and fetch what becomes of them, as far as the step goes; see `Executor.process`."""
        async for outcome in self._send_all(tasks, stop):
            yield outcome
        if self._step != "push" and not stop.requested and self._count_open():
            if self._step == "pull":
                await self._poll()
                async for outcome in self._fetch_done(stop):
                    yield outcome
            else:
                async for outcome in self._work_off(stop):
                    yield outcome
        if stop.kind == CEILING:
            # What is paid for is the time there.
            await self._connection.call(self._host.stop)

    def busy(self) -> dict[str, float]:
        """How busy looking at pages is, 0 to 1; the network and the encoders are on the remote machine."""
        return {"decode": self._opened().meter.sample()}

    async def close(self) -> None:
        """End the threads; the machine goes on with what it has begun."""
        self._connection.close()
        if self._session is not None:
            self._session.workers.shutdown(cancel_futures=True)
            self._session = None

    # To the remote machine

    async def _send_all(
        self, tasks: AsyncIterator[PageTask], stop: StopRequest
    ) -> AsyncGenerator[PageOutcome, None]:
        """Look at every page that is to be done, and send those that are not there yet."""
        if self._held is None:
            self._held = await self._connection.call(self._host.list_pages)
        held = self._held
        batch: list[tuple[str, bytes]] = []
        size = 0
        async for task in tasks:
            if stop.requested:
                break
            try:
                name, data = await self._name(task)
            except Exception as error:
                yield failed_page(task.row_id, task.source, as_page_error(error, task.source))
                continue
            content = self._contents[name]
            if content.failure is not None:
                yield self._fail(content, task, content.failure)
                continue
            if content.told is not None and not content.tasks:
                # What was told of it is taken up once more, for this task.
                self._told.append(content.told)
            content.tasks.append(task)
            if data is None or name in held or self._step in ("run", "pull"):
                continue
            batch.append((name, data))
            size += len(data)
            if len(batch) >= SEND_PAGES or size >= SEND_BYTES:
                await self._send(batch)
                await self._work_meanwhile(stop)
                batch, size = [], 0
        if self._step == "run" and (missing := self._open_names() - held):
            raise RemoteError(
                f"{len(missing):,} pages are not there yet: `comic-upscale remote push` sends them"
            )
        if batch and not stop.requested:
            await self._send(batch)
        if not stop.requested:
            # What is no longer asked for must not be worked on.
            stale = held - self._contents.keys()
            await self._connection.call(self._host.delete, stale)
            self._held = held - stale
        self.activity.doing = None

    async def _name(self, task: PageTask) -> tuple[str, bytes | None]:
        """Return what a page is called on the remote machine, and its bytes where it is new to this executor.

        Raises:
            PageError: it cannot be read, or is no image.
        """
        known = f"{task.sha256}.{task.extension}"
        if known in self._contents:
            return known, None
        source = await task.read()
        session = self._opened()
        session.meter.begin()
        try:
            content = await run_in(session.workers, _look_at, source.data, task.sha256)
        finally:
            session.meter.end()
        # Called as its output will be: pages of one content that become one output are one page there.
        name = f"{content.sha256}.{task.extension}"
        if name in self._contents:
            return name, None
        self._contents[name] = content
        return name, source.data

    async def _send(self, batch: list[tuple[str, bytes]]) -> None:
        await self._connection.call(self._host.send, batch)
        self._sent_pages += len(batch)
        self._sent_bytes += sum(len(data) for _, data in batch)
        self.activity.doing = f"{self._sent_pages:,} pages sent, {self._sent_bytes / 1e6:,.1f} MB"

    async def _work_meanwhile(self, stop: StopRequest) -> None:
        """Let the machine work on what it has while more is sent; its outputs are fetched after that.

        A run there knows the pages that were there when it began. So one that has ended is followed by the
        next, and a GPU waits for the connection, not for its end.
        """
        if self._step != "upscale" or stop.requested:
            return
        result = await self._poll()
        if not result.alive:
            await self._opened().run.start_again(result, stop)

    # And back

    async def _work_off(self, stop: StopRequest) -> AsyncGenerator[PageOutcome, None]:
        """Let the remote machine work, fetch what it finishes, and see that it goes on."""
        run = self._opened().run
        self.activity.doing = "the other machine works on the first pages"
        result = await self._poll()
        async for outcome in self._fetch_done(stop):
            yield outcome
        while not stop.requested:
            if not result.alive:
                if not run.retries and (run.starts or self._all_told()):
                    for outcome in self._take_failures():
                        yield outcome
                if not self._count_open():
                    return
                await run.start_again(result, stop)
            if self._step == "run":
                return
            await _pause(self._poll_seconds if result.alive else min(self._poll_seconds, 1.0), stop)
            result = await self._poll()
            async for outcome in self._fetch_done(stop):
                yield outcome

    async def _poll(self) -> PollResult:
        """Ask what is new, and keep it for fetching it."""
        result = await self._opened().run.poll((self._held or frozenset()) | self._contents.keys())
        self._told += result.pages
        return result

    def _take_failures(self) -> Iterator[PageOutcome]:
        """Give out what the run that has ended could not do; before its end it might still try."""
        for content in self._contents.values():
            told = content.told
            if told is None or told.state == "done":
                continue
            for task in _taken(content):
                yield self._fail(content, task, PageError(told.kind, told.reason))

    def _fail(self, content: _Content, task: PageTask, error: PageError) -> PageOutcome:
        """Return the outcome of a task that failed; every other task with its content fails for the same reason."""
        content.failure = error
        if content.told is not None and content.told.state == "skipped":
            return skipped_page(task.row_id, task.source, error.kind, error.reason, size=content.size)
        return failed_page(task.row_id, task.source, error, size=content.size)

    async def _fetch_done(self, stop: StopRequest) -> AsyncGenerator[PageOutcome, None]:
        """Fetch what was told of as done, and check it; note what failed."""
        told, self._told = self._told, []
        wanted: dict[str, RemotePageResult] = {}
        for page in told:
            content = self._contents.get(page.name)
            if content is None or not content.tasks:
                continue
            # Other skips are of earlier days: it was deleted there for a while.
            if page.state == "skipped" and page.kind not in LEFT_AS_THEY_ARE:
                continue
            content.told = page
            if page.state == "done":
                wanted[page.name] = page
        for batch in _batches(wanted):
            if stop.requested:
                return
            async for outcome in self._fetch_batch(batch):
                yield outcome

    async def _fetch_batch(self, batch: Mapping[str, RemotePageResult]) -> AsyncGenerator[PageOutcome, None]:
        refused: dict[str, PageError] = {}
        sizes = {}
        for name, page in batch.items():
            try:
                self._check_promise(page)
                sizes[name] = page.size
            except PageError as error:
                refused[name] = error
        fetched = await self._connection.call(self._fetch, sizes)
        for name in sizes.keys() - fetched.keys():
            refused[name] = PageError(
                "remote",
                "the other machine says that it is done, and gives no file; --retry-failed does it again",
            )
        for name, data in fetched.items():
            try:
                await run_in(self._opened().workers, _check, data, batch[name])
            except PageError as error:
                refused[name] = error
                continue
            for outcome in self._take_done(batch[name], data):
                yield outcome
        if refused:
            # Its next run does them again, and no bad copy is taken for a good one.
            await self._connection.call(self._host.delete, list(refused))
        for name, reason in refused.items():
            content = self._contents[name]
            for task in _taken(content):
                yield self._fail(content, task, reason)

    def _fetch(self, sizes: Mapping[str, int]) -> dict[str, bytes]:
        return {name: data for name, data in self._host.fetch(sizes) if name in sizes}

    def _check_promise(self, page: RemotePageResult) -> None:
        """Refuse an output that cannot be this page's, before it is fetched.

        Raises:
            PageError: it cannot.
        """
        width, height = self._contents[page.name].size
        if (page.width, page.height) not in ((width, height), (height, width)):
            raise PageError("remote", "the other machine speaks of another page than the one that was sent")
        target = find_target(page.width, page.height, self._opened().size).size
        if (page.output_width, page.output_height) != target:
            raise PageError(
                "remote", f"the other machine made {page.output_width}x{page.output_height} of it"
            )
        if not 0 < page.size <= target[0] * target[1] * _BYTES_A_PIXEL + _ROOM_FOR_HEADERS:
            raise PageError("remote", f"the other machine says that it has {page.size:,} bytes")

    def _take_done(self, page: RemotePageResult, data: bytes) -> Iterator[PageOutcome]:
        """Give out an output to the tasks that wait for it; the first one has its seconds, the others cost nothing."""
        content = self._contents[page.name]
        for place, task in enumerate(_taken(content)):
            self.activity.in_hand, self.activity.doing = task.source, None
            yield PageUpscaled(
                row_id=task.row_id,
                source_sha256=content.sha256,
                width=page.width,
                height=page.height,
                output_width=page.output_width,
                output_height=page.output_height,
                data=data,
                sha256=page.sha256,
                seconds=dict(page.seconds) if place == 0 else {},
                notes=(page.notes,) if page.notes else (),
                scores=dict(page.scores),
                suspect=(page.suspect,) if page.suspect else (),
            )

    # What these share

    def _opened(self) -> _Session:
        assert self._session is not None, "the executor is not open"
        return self._session

    def _count_open(self) -> int:
        """Tasks that have no outcome yet."""
        return sum(len(content.tasks) for content in self._contents.values())

    def _open_names(self) -> set[str]:
        return {name for name, content in self._contents.items() if content.tasks}

    def _all_told(self) -> bool:
        return all(content.told is not None for content in self._contents.values() if content.tasks)


def _taken(content: _Content) -> list[PageTask]:
    """Take the tasks that wait for a content."""
    tasks, content.tasks = content.tasks, []
    return tasks


def _look_at(data: bytes, sha256: str) -> _Content:
    """Read the header of a page, and hash it where that has not been done.

    Raises:
        PageError: it is no image that can be read.
    """
    header = read_header(data)
    return _Content(sha256 or sha256_of_source(data), (header.width, header.height))


async def _pause(seconds: float, stop: StopRequest) -> None:
    for _ in range(max(1, round(seconds * 5))):
        if stop.requested:
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


def _check(data: bytes, page: RemotePageResult) -> None:
    """Compare a fetched output with what the remote ledger recorded, and see that it decodes.

    Raises:
        PageError: it is another one, or cannot be read.
    """
    if len(data) != page.size or hashlib.sha256(data).hexdigest() != page.sha256:
        raise PageError(
            "remote", "what came is not what the ledger elsewhere recorded; --retry-failed does it again"
        )
    check_encoded(data, (page.output_width, page.output_height))
