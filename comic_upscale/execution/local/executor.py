"""The executor of this machine: opens the engines for a job, and runs a pipeline on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from functools import partial

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.filters import open_filters
from comic_upscale.engines.registry import OpenEngines, describe_loading, identify, prepare_engine
from comic_upscale.errors import WeightsError
from comic_upscale.execution.base import Activity, ExecutorInfo, PageOutcome, PageTask
from comic_upscale.execution.events import Fetching, Listener, Note, Preparing, from_thread
from comic_upscale.execution.local.devices import Devices
from comic_upscale.execution.local.networks import Networks, OpenNetwork
from comic_upscale.execution.local.pipeline import Pipeline, Tools
from comic_upscale.execution.local.steps import PageSteps
from comic_upscale.execution.local.workers import Workers, feeds_fast_device
from comic_upscale.execution.stop import StopRequest
from comic_upscale.library.page_rules import Network, PageRules
from comic_upscale.models.default_model import assumed_native_scale
from comic_upscale.models.weights import known_model
from comic_upscale.settings.job import JobSettings

_TORCH = "torch"
"""The engine that the networks of the package are measured with."""


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
        rules = PageRules(settings)
        opens: dict[Network, OpenNetwork] = {}
        identities: dict[Network, str] = {}
        details = None
        # The weights of all networks, so that a run does not end in the middle because some are missing.
        for network in rules.networks:
            own = replace(settings, model=network[0], denoise=network[1], rules=())
            weights = await asyncio.to_thread(prepare_engine, own, fetching)
            opens[network] = partial(self._open_engines, own, weights)
            identities[network] = (await asyncio.to_thread(identify, own)).digest
            if network == rules.networks[0]:
                details = await asyncio.to_thread(describe_loading, own, weights)
        on_progress(Preparing(what=f"loading {model}" + (f": {details}" if details else "")))
        fallbacks = _fallback_networks(settings, rules.networks) if settings.gate and not settings.raw else {}
        for network in dict.fromkeys(fallbacks.values()):
            if network not in opens:
                own = replace(settings, model=network[0], denoise=network[1], rules=())
                try:
                    weights = await asyncio.to_thread(prepare_engine, own, fetching)
                except WeightsError as error:
                    on_progress(Note(text=f"pages with invented texture are not made again: {error}"))
                    fallbacks = {each: other for each, other in fallbacks.items() if other != network}
                else:
                    opens[network] = partial(self._open_engines, own, weights)
        # Before the engines: a file that is none must not leave them open.
        filters = await asyncio.to_thread(open_filters, settings)
        first = rules.networks[0]
        devices = Devices(await asyncio.to_thread(opens[first]), filters=filters)
        devices.charge(spending)
        # A service would be paid twice, and may answer the same. From its kept answers, a page is made without filters.
        repeats = not settings.raw and (devices.engine.billing == "time" or bool(filters))
        networks = Networks(devices, first, opens, repeats=repeats, filters=filters, fallbacks=fallbacks)
        native_scales = {network[0]: _native_scale(settings, network[0]) for network in rules.networks}
        native_scales[first[0]] = devices.engine.native_scale
        steps = PageSteps(settings, native_scales, identities)
        processes = feeds_fast_device(settings.workers, devices.engine.device)
        self._tools = Tools(
            settings=settings,
            steps=steps,
            networks=networks,
            workers=Workers(settings.workers, steps, processes=processes),
            spending=spending,
            activity=self.activity,
        )
        return replace(devices.info(), warnings=devices.warnings(settings))

    def info(self) -> ExecutorInfo:
        """Return the current devices and precision of the engines."""
        return self._require_tools().networks.base.info()

    def process(self, tasks: AsyncIterator[PageTask], stop: StopRequest) -> AsyncGenerator[PageOutcome, None]:
        """Run tasks through a pipeline; see `Executor.process`."""
        return Pipeline(self._require_tools(), stop).process(tasks)

    def busy(self) -> dict[str, float]:
        """Return how busy decoding, the engines and encoding are, 0 to 1."""
        tools = self._require_tools()
        meters = {
            "decode": tools.workers.meters["decode"],
            "upscale": tools.networks.meter,
            "encode": tools.workers.meters["encode"],
        }
        return {stage: meter.sample() for stage, meter in meters.items()}

    async def close(self) -> None:
        """End the threads and close the engines."""
        if self._tools is not None:
            self._tools.workers.close()
            self._tools.networks.close()
            self._tools = None

    def _require_tools(self) -> Tools:
        assert self._tools is not None, "the executor is not open"
        return self._tools


def _fallback_networks(settings: JobSettings, networks: Sequence[Network]) -> dict[Network, Network]:
    """Return for each network that may invent texture the one that makes such a page again."""
    if settings.backend != _TORCH:
        return {}
    models = {network: known_model(network[0]) for network in networks}
    return {
        network: (model.fallback, network[1])
        for network, model in models.items()
        if model is not None and model.fallback
    }


def _native_scale(settings: JobSettings, model: str) -> int | None:
    """Return the factor of a network that is not open yet; None if only its weights tell."""
    known = known_model(model)
    return assumed_native_scale(replace(settings, model=model)) if known is None else known.native_scale
