"""One run of a job from start to end: discover, resolve, plan, process, finish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from comic_upscale.engines.registry import OpenEngines, check_cluster, check_remote, open_engines
from comic_upscale.errors import RemoteError
from comic_upscale.execution.base import Executor
from comic_upscale.execution.events import Event, JobFinished, Listener, Preparing
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.begin import begin_run, open_ledger
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.finish import RunEnd, finish_run
from comic_upscale.jobs.header import announce
from comic_upscale.jobs.page_watch import PageWatch
from comic_upscale.jobs.process import process_pages
from comic_upscale.jobs.volume_writer import VolumeWriter
from comic_upscale.ledger.async_ledger import AsyncLedger
from comic_upscale.ledger.bucket_copy import LedgerCopy
from comic_upscale.ledger.lock import has_begun, hold_job
from comic_upscale.ledger.pausing import resume_job
from comic_upscale.ledger.writer import Ledger
from comic_upscale.planning.discovery import find_pages
from comic_upscale.planning.model_selection import SelectedModel, choose_model, named_model
from comic_upscale.planning.output_checks import claim_marked
from comic_upscale.planning.output_marks import OutputMarks
from comic_upscale.planning.resolve import JobHistory, ResolvedJob, resolve
from comic_upscale.planning.selection import with_recorded_selection
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.places import is_bucket
from comic_upscale.settings.selection import Selection
from comic_upscale.storage.marker import check_output_folder
from comic_upscale.storage.replaced import Trash
from comic_upscale.storage.stores import open_stores

if TYPE_CHECKING:
    from comic_upscale.execution.ray.options import RayOptions
    from comic_upscale.execution.remote import RemoteOptions


def run_job(
    settings: JobSettings,
    *,
    on_event: Listener | None = None,
    stop: StopRequest | None = None,
    open_engines: OpenEngines = open_engines,
    remote: Sequence[RemoteOptions] = (),
    watch: PageWatch | None = None,
    worker: Path | None = None,
    cluster: RayOptions | None = None,
    only: Selection | None = None,
    resumes: bool = False,
) -> JobFinished:
    """Upscale every page of a job that is not done yet, and return how it ended.

    Blocks until the end; `run_job_async` does the same in the event loop of the caller.

    Args:
        settings: of the job.
        on_event: called with every event, on the calling thread.
        stop: set it from another thread or a signal handler to stop gracefully.
        open_engines: opens the engines; replace it to use another engine.
        remote: remote machines that process the pages, in place of engines. Several take the step ``upscale``.
        watch: receives the pages in flight, and can refuse a page.
        worker: the socket of a worker of this machine that processes the pages. Without a worker there, the engines of
            this process do.
        cluster: the Ray cluster that processes the pages.
        only: the part of the input that this run looks at. The job does not remember it, unlike the selection in its
            settings.
        resumes: whether a job that is paused goes on.

    Raises:
        InputError: the input does not exist, or contains no page.
        WeightsError: the weights are missing.
        DeviceError: the device is missing, or failed.
        LedgerError: the ledger cannot be used, or another run has locked it.
        OutputError: the output folder is not writable, or the disk is full.
        RemoteError: the remote machine cannot do the work.
    """
    return asyncio.run(
        run_job_async(
            settings,
            on_event=on_event,
            stop=stop,
            open_engines=open_engines,
            remote=remote,
            watch=watch,
            worker=worker,
            cluster=cluster,
            only=only,
            resumes=resumes,
        )
    )


async def run_job_async(
    settings: JobSettings,
    *,
    on_event: Listener | None = None,
    stop: StopRequest | None = None,
    open_engines: OpenEngines = open_engines,
    remote: Sequence[RemoteOptions] = (),
    watch: PageWatch | None = None,
    worker: Path | None = None,
    cluster: RayOptions | None = None,
    only: Selection | None = None,
    resumes: bool = False,
) -> JobFinished:
    """Upscale every page of a job that is not done yet, like `run_job`, in the running event loop."""
    emit = on_event or _ignore
    executor = _choose_executor(open_engines, remote, worker, cluster)
    stop = stop or StopRequest()
    files = ThreadPoolExecutor(settings.workers, thread_name_prefix="files")
    copy: LedgerCopy | None = None
    try:
        if executor.is_remote:
            check_remote(settings)
        if cluster is not None:
            check_cluster(settings)
        # Before the input is read, which may take minutes.
        await asyncio.to_thread(check_output_folder, settings.folder)
        copy = await _restore_ledger(settings, emit)
        settings = await asyncio.to_thread(with_recorded_selection, settings)
        model = await asyncio.to_thread(named_model, settings)
        if settings.replace_sources:
            await asyncio.to_thread(_settle, settings)
        emit(Preparing(what="reading the input"))
        stores = open_stores(settings.input, settings.output, files)
        begun = has_begun(settings.folder, settings.ledger_path)
        looked_at = settings if only is None else replace(settings, selection=only)
        discovery = await asyncio.to_thread(find_pages, looked_at, stores.sources)
        async with open_ledger(settings, begun=begun, copy=copy, stop=stop) as (ledger, on_ledger):
            if copy is not None and copy.was_fetched:
                await on_ledger(claim_marked, ledger, settings.output, stores.outputs)
            job = await _resolve(settings, model, executor, ledger, on_ledger, emit)
            async with begin_run(
                job, discovery, stores, files, ledger, on_ledger, emit, stop, executor
            ) as context:
                if resumes:
                    # Not before: another run may hold the job, and this one may be refused.
                    await asyncio.to_thread(resume_job, settings.folder)
                if copy is not None:
                    # Before the first output. Another machine would refuse to replace an output that no ledger records.
                    await asyncio.to_thread(copy.save)
                context = replace(context, watch=watch, looked_at=looked_at.selection)
                return await _run(context, executor)
    finally:
        try:
            await executor.close()
        finally:
            files.shutdown()
            if copy is not None:
                await asyncio.to_thread(copy.close)


def _choose_executor(
    open_engines: OpenEngines,
    remote: Sequence[RemoteOptions],
    worker: Path | None,
    cluster: RayOptions | None,
) -> Executor:
    """Return what processes the pages, and import no other: a small run over a socket is mostly imports."""
    if remote:
        from comic_upscale.execution.remote import RemoteExecutor
        from comic_upscale.execution.several import SeveralExecutor

        if len(remote) == 1:
            return RemoteExecutor(remote[0])
        return SeveralExecutor({machine.name: RemoteExecutor(machine) for machine in remote})
    if cluster is not None:
        from comic_upscale.execution.ray.executor import RayExecutor

        return RayExecutor(cluster, open_engines)
    if worker is not None:
        from comic_upscale.execution.worker_client import WorkerExecutor

        return WorkerExecutor(worker, open_engines)
    from comic_upscale.execution.local.executor import LocalExecutor

    return LocalExecutor(open_engines)


async def _restore_ledger(settings: JobSettings, emit: Listener) -> LedgerCopy | None:
    """Return the copy of the ledger in a bucket, which other machines may have worked on; None for a folder."""
    if not is_bucket(settings.output):
        return None
    copy = LedgerCopy(settings.output, settings.ledger_path, settings.folder)
    loop = asyncio.get_running_loop()

    def on_wait(what: str) -> None:
        loop.call_soon_threadsafe(emit, Preparing(what=what))

    def restore() -> None:
        with hold_job(settings.folder, settings.ledger_path):
            copy.restore(on_wait)

    await asyncio.to_thread(restore)
    return copy


def _settle(settings: JobSettings) -> None:
    """Complete the replacements that a kill interrupted.

    Raises:
        LedgerBusyError: another run or `restore` is working on the folder.
    """
    trash = Trash(settings.input, OutputMarks())
    # Without a trash there is nothing to do, and an input that is refused gets no folder.
    if trash.is_there():
        with hold_job(settings.folder, settings.ledger_path):
            trash.settle()


async def _resolve(
    settings: JobSettings,
    model: SelectedModel | None,
    executor: Executor,
    ledger: Ledger,
    on_ledger: AsyncLedger,
    emit: Listener,
) -> ResolvedJob:
    """Resolve the job; a model is chosen only if no earlier job with the same settings has one."""
    history = JobHistory(
        tuple(await on_ledger(ledger.auto_jobs, settings.output)) if model is None else (),
        frozenset(await on_ledger(ledger.early_jobs, settings.output)),
    )
    job = await asyncio.to_thread(resolve, settings, history, model)
    if job is None:
        emit(Preparing(what="choosing a model"))
        accelerator = await executor.has_accelerator(settings, emit)
        chosen = await asyncio.to_thread(choose_model, settings, accelerator)
        job = resolve(settings, history, chosen)
    assert job is not None
    return job


async def _run(context: JobContext, executor: Executor) -> JobFinished:
    """Process the plan, and finish the run."""
    volume_writer = VolumeWriter(context)
    try:
        end = await _work_off(context, executor, volume_writer)
    finally:
        # Before originals are replaced: Windows neither moves nor removes a volume that is open.
        volume_writer.shut_down()
    return await finish_run(context, end)


async def _work_off(context: JobContext, executor: Executor, volume_writer: VolumeWriter) -> RunEnd:
    """Process the pages and write the volumes of the plan, as far as the stop and the budget allow."""
    if not context.plan.todo:
        return await _write_volumes(context, volume_writer)
    if context.stop.requested:
        # While the input was read. Nothing is loaded for a run that ends at once.
        announce(context, None)
        return _interrupted(context)
    # Loading costs money too: do not start if the budget does not last until the first page.
    if context.is_at_ceiling(await _start_seconds(context, executor)):
        announce(context, None)
        return _interrupted(context)
    return await _process(context, executor, volume_writer)


async def _write_volumes(context: JobContext, volume_writer: VolumeWriter) -> RunEnd:
    """Write the volumes whose pages are all done; this needs no network."""
    announce(context, None)
    for volume in volume_writer.ready():
        if context.stop.requested:
            return _interrupted(context)
        await volume_writer.write(volume)
    return RunEnd()


async def _process(context: JobContext, executor: Executor, volume_writer: VolumeWriter) -> RunEnd:
    """Process the pending pages."""
    try:
        info = await executor.open(
            context.settings,
            model=context.job.model.name,
            fingerprint=context.fingerprint,
            spending=context.spending,
            on_progress=context.emit,
        )
    except RemoteError:
        # The executor has broken off the preparation, because the money is spent.
        if not context.is_at_ceiling():
            raise
        announce(context, None)
        return _interrupted(context)
    announce(context, None if executor.is_remote else info)
    await _record_device(context, executor)
    start = time.monotonic()
    tally = await process_pages(context, executor, volume_writer)
    seconds = time.monotonic() - start
    # Once more, since an engine may have given up half precision.
    await _record_device(context, executor)
    # A stop during the last page interrupted nothing.
    left = tally.pending > 0
    why = context.stop.reason or (info.step and f"remote {info.step} is complete")
    return RunEnd(
        state="interrupted" if left else "finished",
        reason=why if left else None,
        done_now=tally.done,
        copied_now=tally.copied,
        seconds=seconds,
        step=None if context.stop.requested else info.step,
    )


async def _record_device(context: JobContext, executor: Executor) -> None:
    info = executor.info()
    await context.on_ledger(
        context.ledger.set_device, context.run_id, device=info.device, precision=info.precision
    )


async def _start_seconds(context: JobContext, executor: Executor) -> float:
    """Return the time until the first page, as measured by earlier runs of the job."""
    if context.spending is None or executor.is_remote:
        return 0.0
    return await context.on_ledger(context.ledger.start_seconds, context.job_id)


def _interrupted(context: JobContext) -> RunEnd:
    return RunEnd(state="interrupted", reason=context.stop.reason)


def _ignore(event: Event) -> None:
    """Ignore an event."""
