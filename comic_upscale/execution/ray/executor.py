"""The executor of a Ray cluster. The run claims, places and records; the actors compute.

* Pages in a bucket are read by the actors, and their outputs written there under names of their own, which the run
  then changes. So two actors that do the same page never write one name. All other bytes travel over TCP
  (`page_server.py`).
* A page whose actor dies is done by another one. It may have been the reason, so it is then alone in its actor. After
  three deaths it has failed.
* When no more pages come, the slowest ones are done a second time. The first outcome counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.registry import OpenEngines
from comic_upscale.errors import StorageError
from comic_upscale.execution.base import (
    Activity,
    ExecutorInfo,
    PageOutcome,
    PageTask,
)
from comic_upscale.execution.events import Listener, Preparing
from comic_upscale.execution.ray import pool as pools
from comic_upscale.execution.ray.actor import ActorSetup
from comic_upscale.execution.ray.options import RayOptions
from comic_upscale.execution.ray.page_server import PageServer
from comic_upscale.execution.ray.pool import ActorPool
from comic_upscale.execution.ray.round import STORED, Round
from comic_upscale.execution.stop import StopRequest
from comic_upscale.execution.worker_protocol import VERSION
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.places import is_bucket, place_of
from comic_upscale.storage.buckets import Bucket

OLD_SECONDS = 86_400.0
"""No run needs an output of an actor that is older; it was left by a run that was killed."""


class RayExecutor:
    """Processes pages on a Ray cluster; an `Executor`.

    Args:
        options: which cluster, and how.
        open_engines: opens the engines in an actor.
    """

    is_remote = False

    def __init__(self, options: RayOptions, open_engines: OpenEngines) -> None:
        self._options, self._open_engines = options, open_engines
        self._has_connected = False
        self._pool: ActorPool | None = None
        self._server = PageServer()
        self._spending: Spending | None = None
        self._settings: JobSettings | None = None
        self._stored: Bucket | None = None
        self._below = f"{STORED}/{secrets.token_hex(8)}"
        """The names of no other run: one that lost its job may still write."""
        self._rounds = 0
        self.leftovers: set[str] = set()
        """Names under which an actor may have written an output that does not count."""
        self.twice = 0
        """Pages that were done a second time at the end."""
        self.activity = Activity()

    async def has_accelerator(self, settings: JobSettings, on_progress: Listener) -> bool | None:
        """Return whether the cluster has GPUs, unless the settings name a device."""
        await self._connect()
        if settings.device != "auto":
            return None
        return (
            await asyncio.to_thread(pools.has_gpus) if self._options.gpus is None else self._options.gpus > 0
        )

    async def open(
        self,
        settings: JobSettings,
        *,
        model: str,
        fingerprint: str,
        spending: Spending | None,
        on_progress: Listener,
    ) -> ExecutorInfo:
        """Start the actors, and wait for the first one; see `Executor.open`."""
        self._spending, self._settings = spending, settings
        on_progress(Preparing(what="connecting to the cluster"))
        await self._connect()
        setup = ActorSetup(
            version=VERSION,
            settings=settings,
            model=model,
            fingerprint=fingerprint,
            open_engines=self._open_engines,
            weights=await asyncio.to_thread(_read_weights, settings.model),
            rule_weights=await asyncio.to_thread(_read_rule_weights, settings),
            pages=await self._server.start(pools.node_address()),
            environment=dict(self._options.environment),
        )
        if is_bucket(settings.output):
            place = place_of(settings.output)
            self._stored = Bucket(place)
            await asyncio.to_thread(_delete_old, self._stored)
        self._pool = ActorPool(self._options, setup, with_gpus=settings.device != "cpu")
        on_progress(Preparing(what=f"loading {model} on the cluster"))
        self.activity.within = self._pool.within
        self._pool.open()
        first = await self._pool.wait_for_first(lambda what: on_progress(Preparing(what=what)))
        del first
        return self._pool.info()

    def info(self) -> ExecutorInfo:
        """Return the devices and precision of the actors."""
        return self._require_pool().info()

    async def process(
        self, tasks: AsyncIterator[PageTask], stop: StopRequest
    ) -> AsyncGenerator[PageOutcome, None]:
        """Let the actors process tasks; see `Executor.process`."""
        self._rounds += 1
        round_ = Round(self, self._rounds, tasks, stop)
        async with contextlib.aclosing(round_.outcomes()) as outcomes:
            async for outcome in outcomes:
                yield outcome

    def busy(self) -> dict[str, float]:
        """Return how busy the stages of the actors are, on average, as they last said."""
        said = [actor.busy for actor in self._require_pool().actors if actor.busy]
        stages = {stage for busy in said for stage in busy}
        return {stage: sum(busy.get(stage, 0.0) for busy in said) / len(said) for stage in stages}

    async def close(self) -> None:
        """End the actors, and leave the cluster."""
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        await self._server.close()
        await self._sweep()
        if self._has_connected:
            await asyncio.to_thread(pools.disconnect)
            self._has_connected = False

    async def _connect(self) -> None:
        """Connect once: `close` disconnects once."""
        if not self._has_connected:
            self._has_connected = await asyncio.to_thread(pools.connect, self._options)

    async def _sweep(self) -> None:
        """Delete the outputs that do not count. The actors have ended."""
        if self._stored is not None and self.leftovers:
            with contextlib.suppress(StorageError):
                await asyncio.to_thread(delete_below, self._stored, self._below)
        self.leftovers.clear()

    def _require_pool(self) -> ActorPool:
        assert self._pool is not None, "the executor is not open"
        return self._pool

    # For its rounds

    @property
    def pool(self) -> ActorPool:
        """The actors."""
        return self._require_pool()

    @property
    def server(self) -> PageServer:
        """Where pages come from that are in no bucket."""
        return self._server

    @property
    def spending(self) -> Spending | None:
        """The cost meter of the run."""
        return self._spending

    @property
    def stored_below(self) -> str | None:
        """Where the actors write the outputs of this run into the bucket; None if they send them."""
        return None if self._stored is None else self._below


def _read_weights(model: str) -> bytes | None:
    """Return the content of weights that are named by a path, which other machines need not have."""
    path = Path(model)
    return path.read_bytes() if path.is_file() else None


def _read_rule_weights(settings: JobSettings) -> dict[str, bytes]:
    """Return the same for the models of rules, by their names in the rules."""
    models = {str(rule.changes["model"]) for rule in settings.rules if "model" in rule.changes}
    found = {model: _read_weights(model) for model in models}
    return {model: content for model, content in found.items() if content is not None}


def delete_below(bucket: Bucket, folder: str, *, older_than_seconds: float | None = None) -> None:
    """Delete the objects of a folder.

    Args:
        bucket: of the outputs.
        folder: its name.
        older_than_seconds: objects that are not so old stay.
    """
    before = None if older_than_seconds is None else time.time_ns() - int(older_than_seconds * 1e9)
    bucket.delete([each.key for each in bucket.walk(folder) if before is None or each.mtime_ns < before])


def _delete_old(bucket: Bucket) -> None:
    """Delete what killed runs left. What is younger may be of a run that still works."""
    delete_below(bucket, STORED, older_than_seconds=OLD_SECONDS)
