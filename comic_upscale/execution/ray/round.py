"""One round of a run on a Ray cluster: tasks are handed out to actors, and each gets one outcome."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from comic_upscale.costs.spending import Spending
from comic_upscale.errors import ComicUpscaleError, DeviceError, PageError
from comic_upscale.execution.base import (
    CRASH,
    Activity,
    ExecutorInfo,
    PageOutcome,
    PageTask,
    PageUpscaled,
    StoredOutput,
    failed_page,
)
from comic_upscale.execution.ray import pool as pools
from comic_upscale.execution.ray.actor import ActorTask
from comic_upscale.execution.ray.page_server import PageServer
from comic_upscale.execution.ray.pool import Actor, ActorPool
from comic_upscale.execution.received_output import check_received
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.execution.worker_protocol import Frame, error_of, outcome_of
from comic_upscale.settings.paths import MARKER_FOLDER

DEATHS = 3
"""Actors that may die with a page before it is set aside."""
SET_ASIDE = 3
"""Pages in a row that may be set aside."""
TWICE_AFTER_SECONDS = 5.0
"""A page is done a second time only after this long, and after twice the usual time."""
_LOOK_SECONDS = 0.2
STORED = f"{MARKER_FOLDER}/ray"
"""Where actors write outputs, each run below a name of its own."""


class RoundTools(Protocol):
    """What a round needs of its executor."""

    leftovers: set[str]
    """Names under which an actor may have written an output that does not count."""
    twice: int
    """Pages that were done a second time at the end."""
    activity: Activity
    """Records the page that an actor was given last."""

    @property
    def pool(self) -> ActorPool:
        """The actors."""

    @property
    def server(self) -> PageServer:
        """Where pages come from that are in no bucket."""

    @property
    def spending(self) -> Spending | None:
        """The cost meter of the run."""

    @property
    def stored_below(self) -> str | None:
        """Where the actors write the outputs of this run into the bucket; None if they send them."""


@dataclass(eq=False, slots=True)
class _Item:
    """A task that has no outcome yet."""

    task: PageTask
    deaths: int = 0
    """Actors that died while they had this page, and since the first one nothing else."""
    tries: int = 0
    began: float = 0.0
    runs: dict[asyncio.Task[PageOutcome | None], Actor] = field(default_factory=dict)
    is_settled: bool = False


class Round:
    """One call of `Executor.process`."""

    def __init__(
        self, executor: RoundTools, number: int, tasks: AsyncIterator[PageTask], stop: StopRequest
    ) -> None:
        self._executor, self._number, self._tasks, self._stop = executor, number, tasks, stop
        self._pool, self._server = executor.pool, executor.server
        self._again: deque[_Item] = deque()
        self._items: set[_Item] = set()
        self._runs: dict[asyncio.Task[PageOutcome | None], _Item] = {}
        self._feeding: asyncio.Task[PageTask | None] | None = None
        self._fed: _Item | None = None
        self._has_ended = False
        self._has_passed_stop_on = False
        self._set_aside = 0
        self._seconds: deque[float] = deque(maxlen=100)

    async def outcomes(self) -> AsyncGenerator[PageOutcome, None]:
        """Yield the outcome of each task."""
        changing: asyncio.Task[bool] | None = None
        try:
            while True:
                await self._look_at_stop()
                self._hand_out()
                if not self._items and not self._feeding and not self._has_work():
                    return
                if self._pool.failure is not None and not self._pool.actors:
                    raise self._pool.failure
                if changing is None or changing.done():
                    self._pool.changed.clear()
                    changing = asyncio.ensure_future(self._pool.changed.wait())
                waited: set[asyncio.Task[Any]] = {changing, *self._runs}
                if self._feeding is not None:
                    waited.add(self._feeding)
                done, _ = await asyncio.wait(
                    waited, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if self._feeding in done:
                    self._take_fed()
                for run in done & self._runs.keys():
                    outcome = self._settle(run)
                    if outcome is not None:
                        yield outcome
                    del outcome
        finally:
            await self._end(changing)

    def _has_work(self) -> bool:
        if self._stop.requested:
            return False
        return bool(self._again) or self._fed is not None or not self._has_ended

    # Handing out

    def _hand_out(self) -> None:
        """Give pages to the actors with room, first those whose actors have died, and ask for more."""
        if self._stop.requested:
            return
        while self._again and (actor := self._find_actor(alone=True)) is not None:
            actor.is_alone = True
            self._begin(self._again.popleft(), actor)
        if self._fed is not None:
            actor = self._find_actor()
            if actor is None:
                return
            item, self._fed = self._fed, None
            self._begin(item, actor)
        if self._feeding is None and not self._has_ended and self._find_actor() is not None:
            self._feeding = asyncio.ensure_future(_next(self._tasks))
        if self._has_ended and not self._again:
            self._do_slow_ones_twice()

    def _find_actor(self, *, alone: bool = False, other_than: set[Actor] | None = None) -> Actor | None:
        """Return the actor with most room; for a page that must be alone, one that holds none."""
        fit = [
            actor
            for actor in self._pool.actors
            if not (actor.is_draining or actor.is_alone or (other_than and actor in other_than))
            and (not actor.keys if alone else len(actor.keys) < actor.slots)
        ]
        return min(fit, key=lambda actor: len(actor.keys) / actor.slots, default=None)

    def _begin(self, item: _Item, actor: Actor) -> None:
        self._executor.activity.in_hand = item.task.source
        item.tries += 1
        item.began = item.began or time.monotonic()
        key = f"{self._number}-{item.task.row_id}-{item.tries}"
        self._items.add(item)
        actor.keys.add(key)
        run = asyncio.ensure_future(self._do(item.task, key, actor))
        item.runs[run] = actor
        self._runs[run] = item

    async def _do(self, task: PageTask, key: str, actor: Actor) -> PageOutcome | None:
        """Let an actor do a page; return None if it had not begun when a stop came.

        Raises:
            ComicUpscaleError: of the engines, or of the input.
            RayError: the actor died.
        """
        below = self._executor.stored_below
        stored_as = None if below is None else f"{below}/{key}"
        if stored_as is not None:
            self._executor.leftovers.add(stored_as)
        self._server.tasks[key] = task
        try:
            said = await actor.handle.do.remote(
                ActorTask(
                    key=key,
                    row_id=task.row_id,
                    source=task.source,
                    format=task.format,
                    extension=task.extension,
                    sha256=task.sha256,
                    points=task.points,
                    address=task.address,
                    stored_as=stored_as,
                )
            )
            outcome = self._read_answer(said, key, actor)
            if isinstance(outcome, PageUpscaled) and outcome.stored is None:
                await asyncio.to_thread(check_received, outcome, task.format, "an actor")
            return outcome
        finally:
            self._server.tasks.pop(key, None)
            self._server.outputs.pop(key, None)
            actor.keys.discard(key)
            if not actor.keys:
                actor.is_alone = False

    def _read_answer(self, said: dict[str, Any], key: str, actor: Actor) -> PageOutcome | None:
        if "none" in said:
            return None
        if "error" in said:
            raise error_of(said)
        actor.busy = said["busy"]
        info = said["info"]
        actor.info = ExecutorInfo(**{**info, "warnings": tuple(info["warnings"])})
        frame = Frame("outcome", said, self._server.outputs.get(key, b""))
        outcome = outcome_of(frame, time.perf_counter())
        if isinstance(outcome, PageUpscaled) and "stored" in said:
            stored = StoredOutput(said["stored"]["name"], int(said["stored"]["size"]))
            return _with_stored(outcome, stored)
        return outcome

    def _do_slow_ones_twice(self) -> None:
        """Give the slowest pages to actors that have nothing else to do."""
        usual = max(TWICE_AFTER_SECONDS, 2 * median(self._seconds)) if self._seconds else 60.0
        now = time.monotonic()
        slow = [
            item
            for item in self._items
            if len(item.runs) == 1 and not item.deaths and now - item.began > usual
        ]
        for item in sorted(slow, key=lambda item: item.began):
            actor = self._find_actor(alone=True, other_than=set(item.runs.values()))
            if actor is None:
                return
            self._executor.twice += 1
            self._begin(item, actor)

    def _take_fed(self) -> None:
        assert self._feeding is not None
        feeding, self._feeding = self._feeding, None
        task = feeding.result()
        if task is None:
            self._has_ended = True
            return
        spending = self._executor.spending
        if spending is not None and not spending.allows():
            self._stop.request(spending.why(), CEILING)
        if not self._stop.requested:
            self._fed = _Item(task)

    # Outcomes

    def _settle(self, run: asyncio.Task[PageOutcome | None]) -> PageOutcome | None:
        """Return the outcome of a page, if this try of it has one and is the first.

        Raises:
            ComicUpscaleError: the run cannot go on.
        """
        item = self._runs.pop(run)
        actor = item.runs.pop(run)
        error = run.exception()
        if error is not None:
            return self._settle_error(item, actor, error)
        outcome = run.result()
        if item.is_settled:
            # Its output is deleted at the end of the round.
            return None
        if outcome is None:
            if not self._stop.requested and not item.runs:
                # The actor has dropped it, and not because of the run.
                self._again.append(item)
            elif not item.runs:
                self._items.discard(item)
            return None
        item.is_settled = True
        self._items.discard(item)
        self._pool.note_success()
        self._set_aside = 0
        self._seconds.append(time.monotonic() - item.began)
        if isinstance(outcome, PageUpscaled):
            if outcome.stored is not None:
                self._executor.leftovers.discard(outcome.stored.name)
            if self._executor.spending is not None:
                pixels = outcome.width * outcome.height
                self._executor.spending.note_batch(pixels, outcome.seconds.get("upscale", 0.0))
        return outcome

    def _settle_error(self, item: _Item, actor: Actor, error: BaseException) -> PageOutcome | None:
        if isinstance(error, ComicUpscaleError) and not isinstance(error, DeviceError):
            raise error
        if isinstance(error, DeviceError):
            self._pool.retire(actor, error)
        elif pools.is_death(error):
            self._pool.retire(actor)
        else:
            raise DeviceError(f"the cluster cannot go on: {error!r}") from error
        if item.is_settled or item.runs:
            return None
        if self._stop.requested:
            self._items.discard(item)
            return None
        item.deaths += not actor.is_draining
        if item.deaths < DEATHS or isinstance(error, DeviceError):
            self._again.append(item)
            return None
        item.is_settled = True
        self._items.discard(item)
        self._set_aside += 1
        if self._set_aside >= SET_ASIDE:
            raise DeviceError(
                f"{SET_ASIDE} pages in a row ended {DEATHS} processes each, so the pages are not at fault: look at the "
                "memory of the nodes and at the logs of Ray"
            )
        reason = f"{item.deaths} processes ended while they upscaled this page; it is set aside"
        return failed_page(item.task.row_id, item.task.source, PageError(CRASH, reason))

    # The end

    async def _look_at_stop(self) -> None:
        if not self._stop.requested or self._has_passed_stop_on:
            return
        self._has_passed_stop_on = True
        if self._feeding is not None:
            await _cancel(self._feeding)
            self._feeding = None
        for actor in self._pool.actors:
            if actor.keys:
                actor.handle.stop.remote()

    async def _end(self, changing: asyncio.Task[bool] | None) -> None:
        """Leave nothing running. Actors that still have pages drop them."""
        for actor in {item.runs[run] for run, item in self._runs.items()}:
            with contextlib.suppress(Exception):
                actor.handle.stop.remote()
        ending: list[asyncio.Task[Any]] = [*self._runs]
        ending += [task for task in (self._feeding, changing) if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._runs.clear()


async def _next(tasks: AsyncIterator[PageTask]) -> PageTask | None:
    return await anext(tasks, None)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _with_stored(outcome: PageUpscaled, stored: StoredOutput) -> PageUpscaled:
    facts = outcome.facts()
    return PageUpscaled(**facts, data=b"", sha256=outcome.sha256, made_at=outcome.made_at, stored=stored)
