"""The start of a run: lock the job, open its ledger, plan the pending work, and record the run."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import platform
from collections.abc import AsyncIterator
from concurrent.futures import Executor as Pool
from dataclasses import asdict

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.registry import find_factory
from comic_upscale.errors import ComicUpscaleError, SettingsError
from comic_upscale.execution.base import Executor
from comic_upscale.execution.events import Listener
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.paid_answers import forget_recorded
from comic_upscale.ledger.async_ledger import AsyncLedger
from comic_upscale.ledger.bucket_copy import LedgerCopy
from comic_upscale.ledger.lock import hold_job
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.discover import Discovery
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.planning.output_checks import source_folders
from comic_upscale.planning.prepare import JobRecord, prepare_job
from comic_upscale.planning.resolve import ResolvedJob
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import answers_folder, default_ledger
from comic_upscale.settings.run import NO_PRICE
from comic_upscale.storage.answers import AnswerStore
from comic_upscale.storage.stores import Stores
from comic_upscale.version import __version__

HEARTBEAT_SECONDS = 5.0


@contextlib.asynccontextmanager
async def open_ledger(
    settings: JobSettings,
    *,
    begun: bool = False,
    copy: LedgerCopy | None = None,
    stop: StopRequest | None = None,
) -> AsyncIterator[tuple[Ledger, AsyncLedger]]:
    """Lock a job, and open its ledger on its own thread.

    Args:
        settings: of the job.
        begun: whether `has_begun` was true before the input was read.
        copy: the copy of the ledger in a bucket; it is saved until the ledger is closed.
        stop: set if another machine claims the job.

    Raises:
        LedgerError: the ledger cannot be used, or another run has locked the job.
        OutputError: the output folder cannot be created, or was moved away while the input was read.
    """
    on_ledger = AsyncLedger()

    def on_lost(reason: str) -> None:
        if stop is not None:
            stop.request(reason)

    try:
        with hold_job(settings.folder, settings.ledger_path, begun=begun):
            ledger = await on_ledger(Ledger, settings.ledger_path)
            try:
                if settings.ledger_path == default_ledger(settings.output):
                    await on_ledger(ledger.move_jobs, settings.output)
                with contextlib.nullcontext() if copy is None else copy.saving(on_lost):
                    yield ledger, on_ledger
            finally:
                await on_ledger(ledger.close)
    finally:
        on_ledger.shut_down()


@contextlib.asynccontextmanager
async def begin_run(
    job: ResolvedJob,
    discovery: Discovery,
    stores: Stores,
    files: Pool,
    ledger: Ledger,
    on_ledger: AsyncLedger,
    emit: Listener,
    stop: StopRequest,
    executor: Executor,
) -> AsyncIterator[JobContext]:
    """Plan a run and record it; an error that ends it early is recorded, too.

    Args:
        job: resolved.
        discovery: of its input.
        stores: of the input and the outputs.
        files: threads that read and write files.
        ledger: open on its thread.
        on_ledger: that thread.
        emit: takes the events.
        stop: requests a graceful stop.
        executor: of the run; tells what is done of the pages in progress.

    Raises:
        SettingsError: there is a cost ceiling but no price.
        LedgerError: the ledger cannot be used.
    """
    with contextlib.closing(
        SourceReader(stores.sources, discovery.volumes, job.settings.volume_rules)
    ) as sources:
        folders = source_folders(discovery.pages, stores.sources)
        model = job.model
        record = JobRecord(job.settings, job.fingerprint, model.name, model.identity, model.auto)
        # A job that is refused must not be the newest in the ledger.
        await on_ledger(_check_price, job, ledger)
        prepared = await on_ledger(prepare_job, record, discovery, sources, stores.outputs, folders, ledger)
        job_id = prepared.job_id
        answers = AnswerStore(answers_folder(job.settings.folder))
        await on_ledger(forget_recorded, answers, ledger, job_id)
        spending = await on_ledger(_meter, job.settings, ledger, job_id)
        price = None if spending is None else spending.price
        run_id = await on_ledger(ledger.start_run, job_id, versions=versions(), price=price)
        if spending is not None:
            spending.on_bill = lambda amount: on_ledger.wait(ledger.bill, run_id, amount)
        stop.has_begun = True
        heartbeats = asyncio.create_task(_keep_alive(ledger, on_ledger, run_id, executor))
        try:
            yield JobContext(
                job=job,
                discovery=discovery,
                source_folders=folders,
                stores=stores,
                files=files,
                sources=sources,
                ledger=ledger,
                on_ledger=on_ledger,
                job_id=job_id,
                plan=prepared.plan,
                moved=prepared.moved,
                run_id=run_id,
                emit=emit,
                stop=stop,
                spending=spending,
                answers=answers,
            )
        except BaseException as error:
            # The ledger itself may be broken, or its disk full: report the first error.
            with contextlib.suppress(ComicUpscaleError):
                message = error.for_record() if isinstance(error, ComicUpscaleError) else str(error)
                await on_ledger(ledger.end_run, run_id, "failed", message or repr(error))
            raise
        finally:
            heartbeats.cancel()


def _check_price(job: ResolvedJob, ledger: Ledger) -> None:
    """Refuse a ceiling without a price; runs on the thread of the ledger.

    Raises:
        SettingsError: there is a cost ceiling but no price.
    """
    settings = job.settings
    if settings.max_cost is None or settings.price is not None:
        return
    if find_factory(settings.backend).billing == "call":
        return
    job_id = ledger.find_job(settings.input, settings.output, job.fingerprint)
    if job_id is None or ledger.spent(job_id)[0] is None:
        raise SettingsError(NO_PRICE)


def _meter(settings: JobSettings, ledger: Ledger, job_id: int) -> Spending | None:
    """Return the cost meter, with the price of this run or an earlier one; runs on the thread of the ledger."""
    last, before = ledger.spent(job_id)
    price = last if settings.price is None else settings.price
    if price is not None:
        return Spending(price, settings.max_cost, before)
    if find_factory(settings.backend).billing == "call":
        return Spending(0.0, settings.max_cost, before)
    return None


async def _keep_alive(ledger: Ledger, on_ledger: AsyncLedger, run_id: int, executor: Executor) -> None:
    """Record heartbeats for other hosts, also during downloads and loading. Ledger errors are reported elsewhere."""
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        within = [asdict(page) for page in executor.activity.within.values()]
        # Not around the loop: the ledger may have been busy for a moment, and the run goes on.
        with contextlib.suppress(ComicUpscaleError):
            await on_ledger(ledger.heartbeat, run_id, json.dumps(within) if within else None)


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the pixels, without importing anything heavy."""
    found = {"comic-upscale": __version__, "python": platform.python_version()}
    for package in ("torch", "spandrel", "pillow", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
