"""One run of a job from beginning to end: find, plan, load, upscale, record."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import itertools
import logging
import platform
import time
from collections.abc import Iterator, Sequence

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.base import Engine
from comic_upscale.engines.registry import OpenEngines, open_engines, unused_gpu_warning
from comic_upscale.errors import ComicUpscaleError, SettingsError
from comic_upscale.execution.events import (
    Event,
    Fetching,
    JobFinished,
    JobStarted,
    Listener,
    Preparing,
    Sending,
)
from comic_upscale.execution.local.pipeline import Pipeline
from comic_upscale.execution.remote import RemoteExecutor, RemoteOptions
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.jobs.sidecar_copy import CopyFailure, CopyTask, carry, plan_copies
from comic_upscale.jobs.volume_writer import VolumeWriter
from comic_upscale.ledger.async_ledger import AsyncLedger
from comic_upscale.ledger.lock import hold_job
from comic_upscale.ledger.records import CopiedFile
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.discover import Discovery
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.models.download import OnProgress
from comic_upscale.models.weights import ResolvedWeights, resolve_weights
from comic_upscale.planning.discovery import find_pages
from comic_upscale.planning.model_selection import (
    SelectedModel,
    choose_model,
    kept_model,
    named_model,
    with_legacy_gray,
)
from comic_upscale.planning.plan import Plan, make_plan, source_folders
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import default_ledger, path_text
from comic_upscale.storage.local import part_path
from comic_upscale.version import __version__

log = logging.getLogger(__name__)

SHOWN_FAILURES = 20
HEARTBEAT_SECONDS = 5.0
CARRIED_AT_ONCE = 64
"""Files that are no pages, copied before the ledger hears of them."""


def run_job(
    settings: JobSettings,
    *,
    on_event: Listener | None = None,
    stop: StopRequest | None = None,
    open_engines: OpenEngines = open_engines,
    elsewhere: RemoteOptions | None = None,
) -> JobFinished:
    """Upscale every page of a job that is not done yet, and return how it ended.

    Blocks until the end; `run_job_async` does the same in a loop of the caller's.

    Args:
        settings: what to do.
        on_event: told of everything that happens, on the calling thread.
        stop: set it from another thread or a signal handler to stop gracefully.
        open_engines: makes the engines; another one can be given in place of the torch network.
        elsewhere: another machine that does the pages in place of engines.

    Raises:
        InputError: no input, or no page in it.
        WeightsError: no weights.
        DeviceError: the device is not there, or died.
        LedgerError: the ledger cannot be used, or another run holds it.
        OutputError: the output folder cannot be written, or is full.
        RemoteError: the other machine cannot do it.
    """
    return asyncio.run(
        run_job_async(settings, on_event=on_event, stop=stop, open_engines=open_engines, elsewhere=elsewhere)
    )


async def run_job_async(
    settings: JobSettings,
    *,
    on_event: Listener | None = None,
    stop: StopRequest | None = None,
    open_engines: OpenEngines = open_engines,
    elsewhere: RemoteOptions | None = None,
) -> JobFinished:
    """Upscale every page of a job that is not done yet; as `run_job`, in the running event loop."""
    emit = on_event or _ignore
    stop = stop or StopRequest()
    if elsewhere is not None:
        elsewhere.workplace.on_progress(_from_a_thread(emit, Sending))
    model = await asyncio.to_thread(named_model, settings)
    emit(Preparing(what="reading the input"))
    discovery = await asyncio.to_thread(find_pages, settings)
    on_ledger = AsyncLedger()
    try:
        with hold_job(settings.output, settings.ledger_path):
            ledger = await on_ledger(Ledger, settings.ledger_path)
            try:
                if settings.ledger_path == default_ledger(settings.output):
                    await on_ledger(ledger.move_jobs, settings.output)
                if model is None:
                    model = await _choose(settings, ledger, on_ledger, emit, elsewhere)
                early = await on_ledger(ledger.early_jobs, settings.output)
                settings = with_legacy_gray(model.settle(settings), model, early)
                run = _Run(settings, discovery, model, ledger, on_ledger, emit, stop, open_engines, elsewhere)
                return await run.go()
            finally:
                await on_ledger(ledger.close)
    finally:
        on_ledger.shut_down()


async def _choose(
    settings: JobSettings,
    ledger: Ledger,
    on_ledger: AsyncLedger,
    emit: Listener,
    elsewhere: RemoteOptions | None,
) -> SelectedModel:
    """Return the model that ``auto`` stands for: the one that the job has already, or else one for it."""
    earlier = await on_ledger(ledger.auto_jobs, settings.output)
    kept = await asyncio.to_thread(kept_model, settings, earlier)
    if kept is not None:
        return kept
    emit(Preparing(what="choosing a model"))
    accelerator = None
    if elsewhere is not None:
        accelerator = await asyncio.to_thread(elsewhere.workplace.has_accelerator)
    return await asyncio.to_thread(choose_model, settings, _fetching(emit), accelerator)


def _fetching(emit: Listener) -> OnProgress:
    """What tells of a download from the thread that it is on."""
    return _from_a_thread(emit, Fetching)


def _from_a_thread(emit: Listener, kind: type[Fetching] | type[Sending]) -> OnProgress:
    loop = asyncio.get_running_loop()

    def on_progress(name: str, done: int, total: int) -> None:
        loop.call_soon_threadsafe(emit, kind(name=name, done_bytes=done, total_bytes=total))

    return on_progress


class _Run:
    """What one run holds in its hands."""

    def __init__(
        self,
        settings: JobSettings,
        discovery: Discovery,
        model: SelectedModel,
        ledger: Ledger,
        on_ledger: AsyncLedger,
        emit: Listener,
        stop: StopRequest,
        open_engines: OpenEngines,
        elsewhere: RemoteOptions | None,
    ) -> None:
        self._elsewhere = elsewhere
        self._settings = settings
        self._discovery = discovery
        self._model = model
        self._fingerprint = settings.fingerprint(model.identity)
        self._ledger = ledger
        self._on_ledger = on_ledger
        self._emit = emit
        self._stop = stop
        self._open_engines = open_engines
        self._shelf = VolumeCache(discovery.volumes, settings.volume_rules)
        self._spending: Spending | None = None

    async def go(self) -> JobFinished:
        with contextlib.closing(self._shelf):
            return await self._go()

    async def _go(self) -> JobFinished:
        job_id, plan = await self._on_ledger(self._plan)
        self._spending = await self._on_ledger(self._meter, job_id)
        price = None if self._spending is None else self._spending.price
        run_id = await self._on_ledger(self._ledger.start_run, job_id, versions=versions(), price=price)
        heartbeats = asyncio.create_task(self._keep_alive(run_id))
        try:
            return await self._work(job_id, run_id, plan)
        except BaseException as error:
            # The ledger may be what broke, or its disk full: the first error is the one to tell.
            with contextlib.suppress(ComicUpscaleError):
                await self._on_ledger(self._ledger.end_run, run_id, "failed", str(error) or repr(error))
            raise
        finally:
            heartbeats.cancel()

    def _meter(self, job_id: int) -> Spending | None:
        """The meter of this run, by the price that it or an earlier run was told; on the ledger's thread."""
        last, before = self._ledger.spent(job_id)
        settings = self._settings
        price = last if settings.price is None else settings.price
        if price is not None:
            return Spending(price, settings.max_cost, before)
        if settings.max_cost is not None:
            raise SettingsError(
                "--max-cost needs to know what an hour of this machine costs: add --price, such as --price 0.20"
            )
        return None

    async def _keep_alive(self, run_id: int) -> None:
        """Show other hosts that the run lives, also while it fetches and loads. A broken ledger shows elsewhere."""
        with contextlib.suppress(ComicUpscaleError):
            while True:
                await asyncio.sleep(HEARTBEAT_SECONDS)
                await self._on_ledger(self._ledger.heartbeat, run_id)

    async def _work(self, job_id: int, run_id: int, plan: Plan) -> JobFinished:
        binder = VolumeWriter(
            settings=self._settings,
            fingerprint=self._fingerprint,
            plan=plan,
            volumes=self._discovery.volumes,
            ledger=self._ledger,
            ledger_thread=self._on_ledger,
            run_id=run_id,
            emit=self._emit,
        )
        try:
            if not plan.todo:
                return await self._bind_only(job_id, run_id, plan, binder)
            # Loading is paid for, too: not begun where the money does not last to the first page.
            if self._is_at_ceiling(await self._start_seconds(job_id)):
                self._tell_beginning(plan, None, [])
                return await self._finish(
                    job_id, run_id, "interrupted", self._stop.reason, done_now=0, seconds=0.0
                )
            weights = await self._weights()
            if self._elsewhere is not None:
                return await self._upscale_elsewhere(job_id, run_id, plan, weights, binder, self._elsewhere)
            self._emit(Preparing(what=f"loading {weights.model_name}"))
            with _closing(await asyncio.to_thread(self._open_engines, self._settings, weights)) as engines:
                return await self._upscale(job_id, run_id, plan, engines, binder)
        finally:
            binder.shut_down()

    async def _start_seconds(self, job_id: int) -> float:
        """How long it takes to the first page, as far as earlier runs of the job tell; elsewhere nobody knows."""
        if self._spending is None or self._elsewhere is not None:
            return 0.0
        return await self._on_ledger(self._ledger.start_seconds, job_id)

    def _is_at_ceiling(self, seconds: float = 0.0) -> bool:
        """Stop where the money does not last for so many more seconds; say whether."""
        if self._spending is None or self._spending.allows(seconds=seconds):
            return False
        self._stop.request(self._spending.why(seconds), CEILING)
        return True

    async def _bind_only(self, job_id: int, run_id: int, plan: Plan, binder: VolumeWriter) -> JobFinished:
        """Do what needs no network: bind volumes whose pages are all done."""
        self._tell_beginning(plan, None, [])
        for volume in binder.ready():
            if self._stop.requested:
                return await self._finish(
                    job_id, run_id, "interrupted", self._stop.reason, done_now=0, seconds=0.0
                )
            await binder.bind(volume)
        return await self._finish(job_id, run_id, "finished", None, done_now=0, seconds=0.0)

    def _tell_beginning(self, plan: Plan, native_scale: int | None, engines: list[Engine]) -> None:
        self._emit(self._header(plan, native_scale, engines))
        for failure in plan.refused:
            self._emit(failure)

    def _plan(self) -> tuple[int, Plan]:
        """Open the job in the ledger and see what is left of it; on the ledger's thread."""
        settings = self._settings
        job_id = self._ledger.open_job(
            input=settings.input,
            output=settings.output,
            fingerprint=self._fingerprint,
            settings=settings.as_json(),
            model=self._model.name,
            model_sha256=self._model.identity,
            model_auto=self._model.auto,
        )
        for row_id, output in self._ledger.abandoned(settings.output):
            with contextlib.suppress(OSError):
                part_path(settings.output / output, row_id).unlink(missing_ok=True)
        plan = make_plan(
            self._ledger,
            job_id,
            self._discovery.pages,
            settings,
            volumes=self._discovery.volumes,
            fingerprint=self._fingerprint,
            shelf=self._shelf,
        )
        return job_id, plan

    async def _weights(self) -> ResolvedWeights:
        settings = self._settings
        cache = settings.weights_cache
        return await asyncio.to_thread(
            resolve_weights,
            settings.model,
            denoise=settings.denoise,
            folders=settings.weights_folders,
            cache=cache or settings.output,
            download=cache is not None,
            on_progress=_fetching(self._emit),
        )

    async def _upscale(
        self, job_id: int, run_id: int, plan: Plan, engines: list[Engine], binder: VolumeWriter
    ) -> JobFinished:
        self._tell_beginning(plan, engines[0].native_scale, engines)
        await self._record_device(run_id, engines)
        pipeline = Pipeline(
            settings=self._settings,
            fingerprint=self._fingerprint,
            plan=plan,
            source_folders=source_folders(self._discovery.pages),
            shelf=self._shelf,
            binder=binder,
            engines=engines,
            ledger=self._ledger,
            ledger_thread=self._on_ledger,
            run_id=run_id,
            emit=self._emit,
            stop=self._stop,
            spending=self._spending,
        )
        start = time.monotonic()
        await pipeline.run()
        seconds = time.monotonic() - start
        await self._record_device(run_id, engines)
        # A stop that came when the last page was already in hand interrupted nothing.
        interrupted = pipeline.progress().pending > 0
        state, reason = ("interrupted", self._stop.reason) if interrupted else ("finished", None)
        return await self._finish(
            job_id,
            run_id,
            state,
            reason,
            done_now=pipeline.done,
            seconds=seconds,
            copied_now=pipeline.copied,
        )

    async def _record_device(self, run_id: int, engines: list[Engine]) -> None:
        """Record what computes; at the end once more, since an engine may have given half precision up."""
        await self._on_ledger(
            self._ledger.set_device, run_id, device=_devices(engines), precision=engines[0].precision
        )

    async def _upscale_elsewhere(
        self,
        job_id: int,
        run_id: int,
        plan: Plan,
        weights: ResolvedWeights,
        binder: VolumeWriter,
        elsewhere: RemoteOptions,
    ) -> JobFinished:
        self._emit(Preparing(what="making the other machine ready"))
        workplace = elsewhere.workplace
        device = await asyncio.to_thread(workplace.prepare, weights, self._fingerprint, self._settings)
        self._tell_beginning(plan, None, [])
        await self._on_ledger(self._ledger.set_device, run_id, device=device.name, precision="")
        pipeline = RemoteExecutor(
            settings=self._settings,
            fingerprint=self._fingerprint,
            plan=plan,
            source_folders=source_folders(self._discovery.pages),
            shelf=self._shelf,
            binder=binder,
            ledger=self._ledger,
            ledger_thread=self._on_ledger,
            run_id=run_id,
            emit=self._emit,
            stop=self._stop,
            spending=self._spending,
            elsewhere=elsewhere,
        )
        start = time.monotonic()
        await pipeline.run()
        seconds = time.monotonic() - start
        state, reason = "finished", None
        if pipeline.progress().pending > 0:
            state, reason = "interrupted", self._stop.reason or f"remote {elsewhere.ask} does no more"
        step = None if self._stop.requested or elsewhere.ask == "upscale" else elsewhere.ask
        return await self._finish(
            job_id,
            run_id,
            state,
            reason,
            done_now=pipeline.done,
            seconds=seconds,
            copied_now=pipeline.copied,
            step=step,
        )

    def _header(self, plan: Plan, native_scale: int | None, engines: list[Engine]) -> JobStarted:
        settings = self._settings
        return JobStarted(
            input=path_text(settings.input),
            output=path_text(settings.output),
            ledger=path_text(settings.ledger_path),
            total=plan.total,
            todo=len(plan.todo),
            done=plan.done,
            failed=plan.failed,
            skipped=plan.skipped,
            scale=settings.scale,
            size=str(settings.asked_size),
            model=self._model.name,
            model_auto=self._model.auto,
            native_scale=native_scale,
            device=_devices(engines) or None,
            precision=engines[0].precision if engines else None,
            batch="auto" if settings.batch is None else str(settings.batch),
            workers=settings.workers,
            passed_over=dict(self._discovery.passed_over),
            warnings=self._warnings(native_scale, engines),
            volumes=len(self._discovery.volumes),
        )

    def _warnings(self, native_scale: int | None, engines: Sequence[Engine]) -> tuple[str, ...]:
        warnings = list(self._discovery.warnings)
        idle = unused_gpu_warning(self._settings, engines)
        if idle is not None:
            warnings.append(idle)
        if self._model.note is not None:
            warnings.append(self._model.note)
        scale = self._settings.scale
        if native_scale is not None and scale is not None and scale > native_scale:
            warnings.append(
                f"the network makes {native_scale}x; the rest up to {scale:g}x is resampling, "
                "which adds size but no detail"
            )
        return tuple(warnings)

    async def _carry(self, job_id: int) -> tuple[int, list[CopyFailure]]:
        """Copy what belongs to the pages that are done; return how many files, and those that could not be."""
        settings, discovery = self._settings, self._discovery
        sidecars = settings.sidecars == "copy"
        in_volumes = any(file.member is not None for file in discovery.files)
        if not (settings.copy_others or in_volumes or (sidecars and discovery.files)):
            return 0, []
        rows = await self._on_ledger(self._ledger.rows, job_id)
        # After a stop what is done is made whole, and nothing new is begun.
        members = not self._stop.requested
        others = settings.copy_others and members
        errands = plan_copies(discovery, rows, sidecars=sidecars, others=others, members=members)
        known = await self._on_ledger(self._ledger.carried, settings.output)
        copied = 0
        refused = [errand for errand in errands if isinstance(errand, CopyFailure)]
        with contextlib.closing(VolumeCache(discovery.volumes, settings.volume_rules)) as shelf:
            results = carry(
                [errand for errand in errands if isinstance(errand, CopyTask)],
                known,
                settings,
                source_folders(discovery.pages),
                shelf,
            )
            while batch := await asyncio.to_thread(list, itertools.islice(results, CARRIED_AT_ONCE)):
                files = [result for result in batch if isinstance(result, CopiedFile)]
                await self._on_ledger(self._ledger.record_carried, job_id, files)
                copied += len(files)
                refused += [result for result in batch if isinstance(result, CopyFailure)]
        return copied, refused

    async def _finish(
        self,
        job_id: int,
        run_id: int,
        state: str,
        reason: str | None,
        *,
        done_now: int,
        seconds: float,
        copied_now: int = 0,
        step: str | None = None,
    ) -> JobFinished:
        copied, refused = await self._carry(job_id)
        await self._on_ledger(self._ledger.end_run, run_id, state, reason)
        counts = await self._on_ledger(self._ledger.counts, job_id)
        failures = await self._on_ledger(self._ledger.failures, job_id, SHOWN_FAILURES)
        volumes, volumes_done = await self._on_ledger(self._ledger.volume_counts, job_id)
        suspects = await self._on_ledger(self._ledger.suspects, job_id)
        finished = JobFinished(
            state=state,
            reason=reason,
            total=sum(counts.values()),
            done=counts.get("done", 0),
            done_now=done_now,
            failed=counts.get("failed", 0),
            skipped=counts.get("skipped", 0),
            pending=counts.get("pending", 0) + counts.get("working", 0),
            seconds=round(seconds, 3),
            pages_per_second=round(done_now / seconds, 4) if done_now and seconds else None,
            output=path_text(self._settings.output),
            ledger=path_text(self._settings.ledger_path),
            failures=tuple(failures),
            volumes=volumes,
            volumes_done=volumes_done,
            carried_now=copied,
            warnings=tuple(f"{file.source} was not copied: {file.reason}" for file in refused),
            stopped_by=self._stop.kind if state == "interrupted" else None,
            step=step,
            spent=None if self._spending is None else round(self._spending.spent(), 6),
            price=None if self._spending is None else self._spending.price,
            suspects=suspects,
            copied_now=copied_now,
        )
        self._emit(finished)
        return finished


def versions() -> dict[str, str]:
    """The versions that decide what a run computes, without importing anything heavy."""
    found = {"comic-upscale": __version__, "python": platform.python_version()}
    for package in ("torch", "spandrel", "pillow", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _devices(engines: Sequence[Engine]) -> str:
    """The devices in words, each once: engines that share one say so in its name."""
    return ", ".join(dict.fromkeys(engine.device for engine in engines))


@contextlib.contextmanager
def _closing(engines: list[Engine]) -> Iterator[list[Engine]]:
    try:
        yield engines
    finally:
        for engine in engines:
            engine.close()


def _ignore(event: Event) -> None:
    """Take an event and do nothing with it."""
