"""The executor for a remote machine: sends pages, has them upscaled there, fetches and checks the outputs.

A page is named by the hash of its content, and its output has the same name. So no answer of the remote machine ever
becomes a path, and no page is sent twice. If the machine is lost, only the pages that were not fetched are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.registry import prepare_engine
from comic_upscale.errors import PageError, RemoteError, SettingsError
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
from comic_upscale.execution.output_check import (
    NOT_COMPARED,
    SOURCE_CHANGED,
    CheckedOutput,
    check_claim,
    check_file,
    compare,
)
from comic_upscale.execution.quality_gate import SUSPECT
from comic_upscale.execution.remote_host import PollResult, RemoteHost, RemotePageResult, RemoteStep
from comic_upscale.execution.remote_pages import (
    Content,
    in_batches,
    inspect,
    pause,
    pop_tasks,
    seconds_left_after,
)
from comic_upscale.execution.remote_run import STOP_SECONDS, HostThread, RemoteRun
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.ledger.records import LEFT_AS_THEY_ARE
from comic_upscale.library.page_rules import PageRules, path_marks
from comic_upscale.settings.job import JobSettings

SEND_BYTES, SEND_PAGES = 32 << 20, 2000
"""The size of one batch to send: at most this much is sent again after a lost connection."""

MAY_BE_ACTIVE = (
    ". A remote run may still be active: look with `comic-upscale remote status`, or destroy the machine"
)
"""Follows the reason of a stop if a remote run could not be stopped."""

PAGE_SECONDS = 1800.0
"""A remote run that finishes no page for this long has not made progress."""


@dataclass(frozen=True)
class RemoteOptions:
    """A remote machine, and the step to take on it."""

    host: RemoteHost
    step: RemoteStep = "upscale"
    name: str = "the remote machine"
    """For messages to the user."""
    poll: float = 3.0
    """Seconds between two polls."""
    page_timeout: float = PAGE_SECONDS
    """Seconds without a finished page after which the remote run is stopped; 0 for no limit."""
    in_shares: bool = False
    """Whether its tasks come in shares. Then outputs that are there already are kept for the next shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """The state of an open remote executor."""

    device: str
    """The device of the machine, for display."""
    settings: JobSettings
    """Of the job."""
    rules: PageRules
    """Of the job."""
    run: RemoteRun
    workers: ThreadPoolExecutor
    """Threads that inspect pages and check outputs."""
    meter: StageMeter
    """How busy these threads are with inspecting."""


class RemoteExecutor:
    """Processes pages on a remote machine; an `Executor`.

    Args:
        remote: the machine; the caller closes it.
    """

    is_remote = True

    def __init__(self, remote: RemoteOptions) -> None:
        self._host = remote.host
        self._step: RemoteStep = remote.step
        self._poll_seconds = remote.poll
        self._page_seconds = remote.page_timeout
        self._in_shares = remote.in_shares
        self._thread = HostThread(self._host)
        self._session: _Session | None = None
        self._contents: dict[str, Content] = {}
        self._held: frozenset[str] | None = None
        self._made: dict[str, RemotePageResult] = {}
        """Outputs of earlier commands that a later share may want, by the names of their pages."""
        self._results: list[RemotePageResult] = []
        self._sent_pages = self._sent_bytes = 0
        self._unstarted: set[str] = set()
        """Pages that were sent since a run began: what the machine says of them is older than they are."""
        self._missing: set[str] = set()
        """Pages that were reported as done once, without a file."""
        self.activity = Activity()
        self.recovered: set[int] = set()
        """Tasks whose outputs were on the machine before the run, by row id: they are only fetched."""

    async def has_accelerator(self, settings: JobSettings, on_progress: Listener) -> bool | None:
        """Ask the machine; see `Executor.has_accelerator`."""
        self._host.on_progress(from_thread(on_progress, Sending))
        if settings.price is not None and settings.max_cost is not None:
            # The run and its meter begin later, but the machine costs money already.
            self._limit_cost(Spending(settings.price, settings.max_cost))
        return await self._thread.call(self._host.has_accelerator)

    def _limit_cost(self, spending: Spending) -> None:
        """Break off calls once the money is spent."""
        self._thread.seconds_left = lambda: None if spending.allows() else 0.0

    async def open(
        self,
        settings: JobSettings,
        *,
        model: str,
        fingerprint: str,
        spending: Spending | None,
        on_progress: Listener,
    ) -> ExecutorInfo:
        """Install missing packages on the machine, and send the weights; see `Executor.open`."""
        self._host.on_progress(from_thread(on_progress, Sending))
        if spending is not None:
            self._limit_cost(spending)
        fetching = from_thread(on_progress, Fetching)
        weights = await asyncio.to_thread(prepare_engine, settings, fetching)
        if weights is None:
            raise SettingsError(f"--engine {settings.backend} has no weights to send")
        rules = PageRules(settings)
        of_rules = []
        for name, denoise in rules.networks[1:]:
            own = replace(settings, model=name, denoise=denoise, rules=())
            if (each := await asyncio.to_thread(prepare_engine, own, fetching)) is not None:
                of_rules.append((name, each))
        on_progress(Preparing(what="preparing the remote machine"))
        try:
            device = await self._thread.call(self._host.prepare, weights, fingerprint, settings, of_rules)
        except RemoteError:
            if spending is not None and not spending.allows():
                # A run that an earlier command has started costs money too.
                with contextlib.suppress(RemoteError):
                    await self._thread.call_within(STOP_SECONDS, self._host.stop)
            raise
        self._session = _Session(
            device=device.name,
            settings=settings,
            rules=rules,
            run=RemoteRun(self._host, self._thread, retry_failed=settings.retry_failed),
            workers=ThreadPoolExecutor(settings.workers, thread_name_prefix="worker"),
            meter=StageMeter(settings.workers),
        )
        return self.info()

    def info(self) -> ExecutorInfo:
        """Return the device that the machine reported."""
        return ExecutorInfo(
            device=self._require_session().device,
            precision="",
            native_scale=None,
            step=None if self._step == "upscale" else self._step,
        )

    async def process(
        self, tasks: AsyncIterator[PageTask], stop: StopRequest
    ) -> AsyncGenerator[PageOutcome, None]:
        """Send tasks and fetch their outputs, as far as the step goes; see `Executor.process`."""
        self._thread.seconds_left = lambda: seconds_left_after(stop)
        try:
            async for outcome in self._do_step(tasks, stop):
                yield outcome
        except RemoteError:
            # A call that a stop has broken off.
            if not stop.requested:
                raise
        finally:
            self.activity.doing = None
        if stop.kind == CEILING:
            await self._stop_run(stop)

    async def _do_step(
        self, tasks: AsyncIterator[PageTask], stop: StopRequest
    ) -> AsyncGenerator[PageOutcome, None]:
        async for outcome in self._send_all(tasks, stop):
            yield outcome
        if self._step == "push" or stop.requested or not self._count_open():
            return
        if self._step == "pull":
            await self._poll()
            async for outcome in self._fetch_done(stop):
                yield outcome
        else:
            async for outcome in self._fetch_until_done(stop):
                yield outcome

    async def _stop_run(self, stop: StopRequest) -> None:
        """Stop the remote run at the cost ceiling: the remote machine is what costs money."""
        self.activity.doing = "stopping the remote run"
        try:
            state = await self._thread.call_within(STOP_SECONDS, self._host.stop)
        except RemoteError:
            state = "unknown"
        # Several machines may have the same to say.
        if state not in ("stopped", "idle") and MAY_BE_ACTIVE not in str(stop.reason):
            stop.reason = f"{stop.reason}{MAY_BE_ACTIVE}"

    def busy(self) -> dict[str, float]:
        """Return how busy inspecting pages is, 0 to 1; the network and the encoders run on the remote machine."""
        return {"decode": self._require_session().meter.sample()}

    async def close(self) -> None:
        """End the threads; the remote run continues."""
        self._thread.close()
        if self._session is not None:
            self._session.workers.shutdown(cancel_futures=True)
            self._session = None

    # Sending

    async def _send_all(
        self, tasks: AsyncIterator[PageTask], stop: StopRequest
    ) -> AsyncGenerator[PageOutcome, None]:
        """Inspect every page, and send those that the machine does not have yet."""
        if self._held is None:
            self._held = await self._thread.call(self._host.list_pages)
            await self._find_made(self._held)
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
            if made := self._made.pop(name, None):
                self._results.append(made)
                self.recovered.add(task.row_id)
            elif content.result is not None and not content.tasks:
                # Handle the known result once more, for this task.
                self._results.append(content.result)
            content.tasks.append(task)
            if data is None or name in held or self._step in ("run", "pull"):
                continue
            batch.append((name, data))
            size += len(data)
            if len(batch) >= SEND_PAGES or size >= SEND_BYTES:
                await self._send(batch)
                await self._keep_running(stop)
                batch, size = [], 0
        if self._step == "run" and (missing := self._open_names() - held):
            raise RemoteError(
                f"{len(missing):,} pages are not on the remote machine yet: send them with `comic-upscale remote push`"
            )
        if batch and not stop.requested:
            await self._send(batch)
        if not stop.requested:
            # The remote run must not process pages that are no longer part of the job.
            stale = held - self._contents.keys() - self._made.keys()
            await self._thread.call(self._host.delete, stale)
            self._held = held - stale
        self.activity.doing = None

    async def _find_made(self, held: frozenset[str]) -> None:
        """Find out which outputs are there already; a machine that gets all tasks at once tells later."""
        if self._in_shares and held:
            await self._poll()
            done = (page for page in self._results if page.state == "done")
            self._made = {page.name: page for page in done if page.name in held}

    async def _name(self, task: PageTask) -> tuple[str, bytes | None]:
        """Return the name of a page on the remote machine, and its bytes if its content is new.

        Raises:
            PageError: the page cannot be read, or is not an image.
        """
        session = self._require_session()
        # There are no paths there. This end knows them, and says which rules they match.
        end = f"{path_marks(session.rules.path_matches(task.source))}.{task.extension}"
        known = f"{task.sha256}{end}"
        if known in self._contents:
            return known, None
        source = await task.read()
        session.meter.begin()
        try:
            content = await run_in(session.workers, inspect, source.data, task.sha256)
        finally:
            session.meter.end()
        # The extension is that of the output: pages with the same content, rules and output are one page there.
        name = f"{content.sha256}{end}"
        if name in self._contents:
            return name, None
        self._contents[name] = content
        return name, source.data

    async def _send(self, batch: list[tuple[str, bytes]]) -> None:
        await self._thread.call(self._host.send, batch)
        self._unstarted.update(name for name, _ in batch)
        self._sent_pages += len(batch)
        self._sent_bytes += sum(len(data) for _, data in batch)
        self.activity.doing = f"{self._sent_pages:,} pages sent, {self._sent_bytes / 1e6:,.1f} MB"

    async def _keep_running(self, stop: StopRequest) -> None:
        """Keep a run going on the machine while more pages are sent; outputs are fetched afterwards.

        A run only processes pages that were there when it began. So when one ends, the next is started, and the
        GPU need not wait until all pages are sent.
        """
        if self._step != "upscale" or stop.requested:
            return
        result = await self._poll()
        if not result.alive:
            await self._restart(result, stop)

    # Fetching

    async def _fetch_until_done(self, stop: StopRequest) -> AsyncGenerator[PageOutcome, None]:
        """Fetch outputs as the remote run finishes them, and restart the run while pages are pending."""
        run = self._require_session().run
        run.note_progress()
        self.activity.doing = "the remote machine is processing the first pages"
        result = await self._poll()
        async for outcome in self._fetch_done(stop):
            yield outcome
        while not stop.requested:
            if not result.alive:
                if not run.retries and (run.starts or self._all_have_results()):
                    for outcome in self._yield_failures():
                        yield outcome
                if not self._count_open():
                    return
                await self._restart(result, stop)
            else:
                await run.check_progress(self._page_seconds)
            if self._step == "run":
                return
            await pause(self._poll_seconds if result.alive else min(self._poll_seconds, 1.0), stop)
            result = await self._poll()
            async for outcome in self._fetch_done(stop):
                yield outcome

    async def _restart(self, result: PollResult, stop: StopRequest) -> None:
        """Start the next remote run, which knows every page that was sent before."""
        await self._require_session().run.restart(result, stop)
        if not stop.requested:
            self._unstarted.clear()

    async def _poll(self) -> PollResult:
        """Poll the machine, and keep the results for `_fetch_done`."""
        result = await self._require_session().run.poll((self._held or frozenset()) | self._contents.keys())
        self._results += [page for page in result.pages if page.name not in self._unstarted]
        return result

    def _yield_failures(self) -> Iterator[PageOutcome]:
        """Yield the failures of the run that has ended; before its end it might retry them."""
        for content in self._contents.values():
            result = content.result
            if result is None or result.state == "done":
                continue
            for task in pop_tasks(content):
                yield self._fail(content, task, PageError(result.kind, result.reason))

    def _fail(self, content: Content, task: PageTask, error: PageError) -> PageOutcome:
        """Return the outcome of a failed task; every other task with this content fails for the same reason."""
        content.failure = error
        if content.result is not None and content.result.state == "skipped":
            return skipped_page(task.row_id, task.source, error.kind, error.reason, size=content.size)
        return failed_page(task.row_id, task.source, error, size=content.size)

    async def _fetch_done(self, stop: StopRequest) -> AsyncGenerator[PageOutcome, None]:
        """Fetch and check the outputs that were reported as done; remember the other results."""
        results, self._results = self._results, []
        wanted: dict[str, RemotePageResult] = {}
        for page in results:
            content = self._contents.get(page.name)
            if content is None or not content.tasks:
                continue
            # Other skips are outdated: the page was deleted on the machine for a while.
            if page.state == "skipped" and page.kind not in LEFT_AS_THEY_ARE:
                continue
            content.result = page
            if page.state == "done":
                wanted[page.name] = page
        for batch in in_batches(wanted):
            if stop.requested:
                return
            async for outcome in self._fetch_batch(batch):
                yield outcome

    async def _fetch_batch(self, batch: Mapping[str, RemotePageResult]) -> AsyncGenerator[PageOutcome, None]:
        refused: dict[str, PageError] = {}
        sizes = {}
        settings = self._require_session().settings
        for name, page in batch.items():
            try:
                check_claim(page, self._contents[name].size, settings.size, cropped=settings.crop_margins)
                sizes[name] = page.size
            except PageError as error:
                refused[name] = error
        fetched = await self._thread.call(self._fetch, sizes)
        for name in sizes.keys() - fetched.keys():
            if name not in self._missing:
                # A page that was sent again after a failure: the new run has not come to it yet.
                self._missing.add(name)
                self._contents[name].result = None
                continue
            refused[name] = PageError(
                "remote",
                "the remote machine reports this page as done but returned no file; use --retry-failed to try again",
            )
        for name, checked in (await self._check_all(batch, fetched)).items():
            data = fetched.pop(name)
            if isinstance(checked, PageError):
                refused[name] = checked
                continue
            for outcome in self._yield_done(batch[name], data, checked):
                yield outcome
        if refused:
            # The next remote run does them again, and a bad copy is never taken for a good one.
            await self._thread.call(self._host.delete, list(refused))
        for name, reason in refused.items():
            content = self._contents[name]
            for task in pop_tasks(content):
                yield self._fail(content, task, reason)

    def _fetch(self, sizes: Mapping[str, int]) -> dict[str, bytes]:
        return {name: data for name, data in self._host.fetch(sizes) if name in sizes}

    async def _check_all(
        self, batch: Mapping[str, RemotePageResult], fetched: Mapping[str, bytes]
    ) -> dict[str, CheckedOutput | PageError]:
        """Check fetched outputs, several at once. Nothing runs on after this returns or raises."""
        limit = asyncio.Semaphore(self._require_session().settings.workers)
        results = await asyncio.gather(
            *(self._check(batch[name], data, limit) for name, data in fetched.items()), return_exceptions=True
        )
        checked: dict[str, CheckedOutput | PageError] = {}
        for name, result in zip(fetched, results, strict=True):
            if isinstance(result, Exception):
                checked[name] = as_page_error(result, self._contents[name].tasks[0].source)
            elif isinstance(result, BaseException):
                raise result
            else:
                checked[name] = result
        return checked

    async def _check(self, page: RemotePageResult, data: bytes, limit: asyncio.Semaphore) -> CheckedOutput:
        """Check a fetched output, and compare it with its source.

        Raises:
            PageError: it is not what it should be, or is suspect and the settings are strict.
        """
        session = self._require_session()
        settings, content = session.settings, self._contents[page.name]
        task = content.tasks[0]
        async with limit:
            await run_in(session.workers, check_file, data, page, task.format)
            if not settings.gate:
                return NOT_COMPARED
            try:
                source = (await task.read()).data
                if await run_in(session.workers, sha256_of_source, source) != content.sha256:
                    return SOURCE_CHANGED
            except PageError:
                return SOURCE_CHANGED
            checked = await run_in(
                session.workers, compare, source, data, settings, session.rules, task.source
            )
        if checked.suspect and settings.strict:
            raise PageError(SUSPECT, "; ".join(checked.suspect))
        return checked

    def _yield_done(
        self, page: RemotePageResult, data: bytes, checked: CheckedOutput
    ) -> Iterator[PageOutcome]:
        """Yield an output for each waiting task. The first has the measured seconds; the others took no time."""
        content = self._contents[page.name]
        for index, task in enumerate(pop_tasks(content)):
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
                seconds=dict(page.seconds) if index == 0 else {},
                notes=(*((page.notes,) if page.notes else ()), *checked.notes),
                scores=checked.scores if checked.suspect or not page.scores else dict(page.scores),
                suspect=(page.suspect,) if page.suspect else checked.suspect,
            )

    # Shared

    def _require_session(self) -> _Session:
        assert self._session is not None, "the executor is not open"
        return self._session

    def _count_open(self) -> int:
        """Return the number of tasks without an outcome."""
        return sum(len(content.tasks) for content in self._contents.values())

    def _open_names(self) -> set[str]:
        return {name for name, content in self._contents.items() if content.tasks}

    def _all_have_results(self) -> bool:
        return all(content.result is not None for content in self._contents.values() if content.tasks)
