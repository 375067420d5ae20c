"""The networks of a run: that of the job, and those of its rules, which are opened when a page needs them.

A network takes seconds to open and memory to keep. So only a few are open at a time, and the one that was used longest
ago makes room. `Pipeline` lets a device go on with the network that it has while pages for it are waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from comic_upscale.engines.base import Engine, OutputFilter
from comic_upscale.execution.events import StageMeter
from comic_upscale.execution.local.devices import Devices
from comic_upscale.execution.quality_gate import QualityGate
from comic_upscale.library.page_rules import Network

log = logging.getLogger(__name__)

MOST_OPEN = 2
"""Networks that are open at the same time. More stay open only while all of them have pages on a device."""

OpenNetwork = Callable[[], Sequence[Engine]]
"""Opens the engines of a network; called on a thread. Its weights are on this machine."""


@dataclass(slots=True)
class _Entry:
    open: OpenNetwork
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the network is opened or closed."""
    devices: Devices | None = None
    gate: QualityGate | None = None
    fallback_gate: QualityGate | None = None
    """The gate of pages on which another network invented texture."""
    users: int = 0
    used_at: int = 0
    """A number that grows with every use."""


class Networks:
    """Opens and closes networks. Used on the thread of the event loop.

    Args:
        base: the open engines of the job's own network.
        network: the job's own network.
        others: the networks of its rules, and the fallbacks.
        repeats: whether suspect pages may be upscaled again.
        filters: applied to each page after its engine.
        fallbacks: for networks that may invent texture, the one that makes such a page again.
    """

    def __init__(
        self,
        base: Devices,
        network: Network,
        others: Mapping[Network, OpenNetwork],
        *,
        repeats: bool,
        filters: Sequence[OutputFilter] = (),
        fallbacks: Mapping[Network, Network] = MappingProxyType({}),
    ) -> None:
        self.base = base
        """The engines of the job's own network, as they were opened first; perhaps closed since."""
        self._repeats, self._filters, self._fallbacks = repeats, filters, dict(fallbacks)
        self._entries = {other: _Entry(open) for other, open in others.items()}
        self._entries[network].devices = base
        self._clock = 0

    def is_open(self, network: Network) -> bool:
        """Return whether a network is open."""
        return self._entries[network].devices is not None

    def batch_limit(self, network: Network, engine_index: int, size: tuple[int, int]) -> int:
        """Return the batch size of a network for pages of a size; 1 before it is open."""
        devices = self._entries[network].devices
        return 1 if devices is None else devices.batch_limit(engine_index % len(devices), size)

    def gate(self, network: Network) -> QualityGate:
        """Return the quality gate for the pages of a network that is or was open."""
        entry = self._entries[network]
        if entry.gate is None:
            assert entry.devices is not None
            entry.gate = self._new_gate(network, entry.devices)
        return entry.gate

    def fallback(self, network: Network) -> Network | None:
        """Return the network that makes a page again on which this one invented texture; None if there is none."""
        return self._fallbacks.get(network)

    def leave_out(self, fallback: Network, error: Exception) -> None:
        """Do not use a fallback network again in this run, because of an error."""
        if fallback in self._fallbacks.values():
            log.warning("pages with invented texture are not made again with %s: %s", fallback[0], error)
        self._fallbacks = {network: other for network, other in self._fallbacks.items() if other != fallback}

    def fallback_gate(self, network: Network) -> QualityGate:
        """Return the gate for pages of other networks that this one, which is or was open, made again."""
        entry = self._entries[network]
        if entry.fallback_gate is None:
            assert entry.devices is not None
            entry.fallback_gate = QualityGate(entry.devices.engine, repeats=False, looks_for_texture=True)
        return entry.fallback_gate

    def _new_gate(self, network: Network, devices: Devices) -> QualityGate:
        looks_for_texture = network in self._fallbacks
        return QualityGate(devices.engine, repeats=self._repeats, looks_for_texture=looks_for_texture)

    @contextlib.asynccontextmanager
    async def use(self, network: Network) -> AsyncIterator[Devices]:
        """Keep a network open inside the block, and open it first if need be.

        Raises:
            WeightsError, DeviceError, SettingsError: it cannot be opened.
        """
        entry = self._entries[network]
        entry.users += 1
        self._clock += 1
        entry.used_at = self._clock
        try:
            async with entry.lock:
                if entry.devices is None:
                    await self._make_room(entry)
                    engines = await asyncio.to_thread(entry.open)
                    entry.devices = Devices(engines, self.meter, self.base.failed, self._filters)
            yield entry.devices
        finally:
            entry.users -= 1

    @property
    def meter(self) -> StageMeter:
        """How busy the devices are."""
        return self.base.meter

    def close(self) -> None:
        """Close every network, and interrupt those that compute."""
        for entry in self._entries.values():
            if entry.devices is not None:
                entry.devices.close()
                entry.devices = None

    async def _make_room(self, wanted: _Entry) -> None:
        """Close networks that no page uses, the one used longest ago first."""
        while True:
            open_now = [each for each in self._entries.items() if each[1].devices is not None]
            idle = [each for each in open_now if not each[1].users and each[1] is not wanted]
            if len(open_now) < MOST_OPEN or not idle:
                return
            network, oldest = min(idle, key=lambda each: each[1].used_at)
            devices, oldest.devices = oldest.devices, None
            # The gate of its pages outlives it.
            if oldest.gate is None and devices is not None:
                oldest.gate = self._new_gate(network, devices)
            async with oldest.lock:
                if devices is not None:
                    await asyncio.to_thread(devices.close)
