"""The executor of this machine: opens the engines for a job, and runs a pipeline on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.filters import open_filters
from comic_upscale.engines.registry import OpenEngines, describe_loading, prepare_engine
from comic_upscale.execution.base import Activity, ExecutorInfo, PageOutcome, PageTask
from comic_upscale.execution.events import Fetching, Listener, Preparing, from_thread
from comic_upscale.execution.local.devices import Devices
from comic_upscale.execution.local.pipeline import Pipeline, Tools
from comic_upscale.execution.local.quality_gate import QualityGate
from comic_upscale.execution.local.steps import PageSteps
from comic_upscale.execution.local.workers import Workers, feeds_fast_device
from comic_upscale.execution.stop import StopRequest
from comic_upscale.settings.job import JobSettings


class LocalExecutor:
    """Processes pages on the devices of this machine; an `Executor`.

    Args:
        open_engines: opens the engines; called on a thread.
    """

    is_remote = False

    def __init__(self, open_engines: OpenEngines) -> None:
        self._open_engines = open_engines
        self._tools: Tools | None = None
        self.activity = Activity()

    async def has_accelerator(self, settings: JobSettings, on_progress: Listener) -> bool | None:
        """Return None: the devices in the settings decide."""
        return None

    async def open(
        self,
        settings: JobSettings,
        *,
        model: str,
        fingerprint: str,
        spending: Spending | None,
        on_progress: Listener,
    ) -> ExecutorInfo:
        """Find the weights, and load the network on every device; see `Executor.open`."""
        fetching = from_thread(on_progress, Fetching)
        weights = await asyncio.to_thread(prepare_engine, settings, fetching)
        details = await asyncio.to_thread(describe_loading, settings, weights)
        on_progress(Preparing(what=f"loading {model}" + (f": {details}" if details else "")))
        # Before the engines: a file that is none must not leave them open.
        filters = await asyncio.to_thread(open_filters, settings)
        devices = Devices(await asyncio.to_thread(self._open_engines, settings, weights), filters)
        devices.charge(spending)
        # A service would be paid twice, and may answer the same.
        repeats = not settings.raw and devices.engine.billing == "time"
        gate = QualityGate(devices.engine, repeats=repeats)
        steps = PageSteps(settings, devices.engine.native_scale, gate)
        processes = feeds_fast_device(settings.workers, devices.engine.device)
        self._tools = Tools(
            settings=settings,
            steps=steps,
            devices=devices,
            workers=Workers(settings.workers, steps, processes=processes),
            gate=gate,
            spending=spending,
            activity=self.activity,
        )
        return replace(devices.info(), warnings=devices.warnings(settings))

    def info(self) -> ExecutorInfo:
        """Return the current devices and precision of the engines."""
        return self._require_tools().devices.info()

    def process(self, tasks: AsyncIterator[PageTask], stop: StopRequest) -> AsyncGenerator[PageOutcome, None]:
        """Run tasks through a pipeline; see `Executor.process`."""
        return Pipeline(self._require_tools(), stop).process(tasks)

    def busy(self) -> dict[str, float]:
        """Return how busy decoding, the engines and encoding are, 0 to 1."""
        tools = self._require_tools()
        meters = {
            "decode": tools.workers.meters["decode"],
            "upscale": tools.devices.meter,
            "encode": tools.workers.meters["encode"],
        }
        return {stage: meter.sample() for stage, meter in meters.items()}

    async def close(self) -> None:
        """End the threads and close the engines."""
        if self._tools is not None:
            self._tools.workers.close()
            self._tools.devices.close()
            self._tools = None

    def _require_tools(self) -> Tools:
        assert self._tools is not None, "the executor is not open"
        return self._tools
