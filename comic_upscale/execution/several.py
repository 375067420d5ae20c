"""The executor that spreads the pages of a job over several machines, each with an executor of its own.

A machine takes a share of the pages at a time: as many as it does in a few minutes, at the rate that it has shown. So
a fast machine takes more of them. If a machine is lost, the others do the rest of its share, after all other pages and
in smaller shares: one of these pages may be what ends machines.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, TypeVar

from comic_upscale.costs.spending import Spending
from comic_upscale.errors import ComicUpscaleError, DeviceError, PageError, RemoteError
from comic_upscale.execution.base import (
    CRASH,
    Activity,
    Executor,
    ExecutorInfo,
    PageOutcome,
    PageTask,
    PageUpscaled,
    failed_page,
)
from comic_upscale.execution.events import Listener, Note
from comic_upscale.execution.stop import StopRequest
from comic_upscale.settings.job import JobSettings

T = TypeVar("T")

SHARE_SECONDS = 240.0
"""How long a machine works on a share. It loads its network for each, which takes about ten seconds."""

FIRST_PAGES, MOST_PAGES = 16, 4000
"""Pages in the first share of a machine, whose rate is not known yet, and in the largest share."""

MOST_GROWTH = 4
"""How many times larger than the last share the next one is at most: small pages at the start promise too much."""

LOSSES = 3
"""Machines that may be lost with a page before it is set aside."""

SUSPECT_PAGES = 4
"""Pages of a lost share in one share, at least: each costs the time to load a network."""

SUSPECT_SHARES = 16
"""Parts into which a lost share is divided at most."""


class MachineExecutor(Executor, Protocol):
    """The executor of one of several machines."""

    recovered: set[int]
    """Tasks whose outputs were on the machine before the run, by row id: they are only fetched."""


@dataclass(slots=True)
class _Machine:
    """One of the machines."""

    name: str
    executor: MachineExecutor
    pages: int
    """In its next share."""
    is_open: bool = False
    is_lost: bool = False
    """Whether it takes no more pages."""

    def note_share(self, pages: int, seconds: float) -> None:
        """Choose the size of its next share by its rate over the last one."""
        if pages:
            wanted = round(pages / max(seconds, 1e-3) * SHARE_SECONDS)
            self.pages = min(max(wanted, FIRST_PAGES), MOST_GROWTH * self.pages, MOST_PAGES)


class SeveralExecutor:
    """Processes pages on several machines at once; an `Executor`.

    Args:
        executors: those of the machines, by the names that the user knows. Each completes its tasks.
    """

    is_remote = True

    def __init__(self, executors: Mapping[str, MachineExecutor]) -> None:
        self._machines = [_Machine(name, executor, FIRST_PAGES) for name, executor in executors.items()]
        self._on_progress: Listener = _ignore
        self._last_loss: ComicUpscaleError | None = None
        self.activity = Activity()
        for machine in self._machines:
            machine.executor.activity = self.activity

    async def has_accelerator(self, settings: JobSettings, on_progress: Listener) -> bool | None:
        """Return whether all machines compute on GPUs only; see `Executor.has_accelerator`."""
        self._on_progress = on_progress
        answers = await self._ask_all(lambda machine: machine.executor.has_accelerator(settings, on_progress))
        return None if None in answers else all(answers)

    async def open(
        self,
        settings: JobSettings,
        *,
        model: str,
        fingerprint: str,
        spending: Spending | None,
        on_progress: Listener,
    ) -> ExecutorInfo:
        """Prepare all machines at once; one that fails is left out, with a note. See `Executor.open`."""
        self._on_progress = on_progress

        async def open_one(machine: _Machine) -> None:
            await machine.executor.open(
                settings, model=model, fingerprint=fingerprint, spending=spending, on_progress=on_progress
            )
            machine.is_open = True

        await self._ask_all(open_one)
        return self.info()

    def info(self) -> ExecutorInfo:
        """Return the devices of the machines as if one machine had them all."""
        infos = [machine.executor.info() for machine in self._machines if machine.is_open]
        host = infos[0].device.partition(": ")[0]
        return ExecutorInfo(
            device=f"{host}: {', '.join(info.device.partition(': ')[2] for info in infos)}",
            precision=infos[0].precision if len({info.precision for info in infos}) == 1 else "",
            native_scale=infos[0].native_scale,
            warnings=tuple(dict.fromkeys(warning for info in infos for warning in info.warnings)),
        )

    async def process(
        self, tasks: AsyncIterator[PageTask], stop: StopRequest
    ) -> AsyncGenerator[PageOutcome, None]:
        """Let the machines process tasks, share by share; see `Executor.process`."""
        deal = _Deal(tasks)
        found: asyncio.Queue[PageOutcome | Exception | None] = asyncio.Queue(1)
        working = [
            asyncio.ensure_future(self._work(machine, deal, stop, found)) for machine in self._machines_left()
        ]
        try:
            ended = 0
            while ended < len(working):
                outcome = await found.get()
                if isinstance(outcome, Exception):
                    raise outcome
                if outcome is None:
                    ended += 1
                    continue
                yield outcome
                # An output is large, and the next one may take a while.
                del outcome
        finally:
            await _cancel(working)
            await deal.close()
        if self._last_loss is not None and not self._machines_left() and not stop.requested:
            raise self._last_loss

    def busy(self) -> dict[str, float]:
        """Return how busy the stages on this machine are, on average over the machines."""
        said = [machine.executor.busy() for machine in self._machines_left() if machine.is_open]
        stages = {stage for busy in said for stage in busy}
        return {stage: sum(busy.get(stage, 0.0) for busy in said) / len(said) for stage in stages}

    async def close(self) -> None:
        """Leave all machines."""
        await asyncio.gather(*(machine.executor.close() for machine in self._machines))

    async def _work(
        self,
        machine: _Machine,
        deal: _Deal,
        stop: StopRequest,
        found: asyncio.Queue[PageOutcome | Exception | None],
    ) -> None:
        """Have a machine do one share after another, until there are no more pages or it is lost."""
        try:
            while not stop.requested and await deal.has_more():
                share, is_lost = _Share(deal, machine.pages, machine.executor.recovered), False
                try:
                    await self._do_share(machine, share, stop, found)
                except (RemoteError, DeviceError):
                    is_lost = True
                    raise
                finally:
                    for task in await deal.end_share(share.open.values(), is_lost=is_lost):
                        await found.put(_set_aside(task))
        except (RemoteError, DeviceError) as error:
            self._lose({machine.name: error})
        except Exception as error:
            await found.put(error)
        await found.put(None)

    async def _do_share(
        self,
        machine: _Machine,
        share: _Share,
        stop: StopRequest,
        found: asyncio.Queue[PageOutcome | Exception | None],
    ) -> None:
        begun, done = time.monotonic(), 0
        async with aclosing(machine.executor.process(share.tasks(), stop)) as outcomes:
            async for outcome in outcomes:
                share.open.pop(outcome.row_id, None)
                # What it did not compute says nothing about its rate.
                done += isinstance(outcome, PageUpscaled) and outcome.row_id not in machine.executor.recovered
                await found.put(outcome)
                del outcome
        machine.note_share(done, time.monotonic() - begun)

    async def _ask_all(self, question: Callable[[_Machine], Awaitable[T]]) -> list[T]:
        """Ask all machines at once; those that cannot answer are lost.

        Raises:
            ComicUpscaleError: none can, or an error is not about one machine.
        """
        machines = self._machines_left()
        answers = await asyncio.gather(*map(question, machines), return_exceptions=True)
        good: list[T] = []
        losses: dict[str, ComicUpscaleError] = {}
        for machine, answer in zip(machines, answers, strict=True):
            if isinstance(answer, RemoteError | DeviceError):
                losses[machine.name] = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                good.append(answer)
        self._lose(losses)
        if self._last_loss is not None and not good:
            raise self._last_loss
        return good

    def _lose(self, losses: Mapping[str, ComicUpscaleError]) -> None:
        """Give machines up, each with a note; the last one of all has its error raised instead."""
        for machine in self._machines:
            machine.is_lost |= machine.name in losses
        left = len(self._machines_left())
        for name, error in losses.items():
            self._last_loss = error
            if left or name != [*losses][-1]:
                more = f" {left} of {len(self._machines)} machines continue." if left else ""
                self._on_progress(Note(text=f"{name} takes no more pages: {str(error).rstrip('.')}.{more}"))

    def _machines_left(self) -> list[_Machine]:
        return [machine for machine in self._machines if not machine.is_lost]


@dataclass(frozen=True, slots=True)
class _Returned:
    """A task that a machine has left unfinished."""

    task: PageTask
    losses: int
    """Machines that were lost with it."""
    pages: int
    """In its next share, at most."""


class _Deal:
    """Deals the tasks of a round out to the machines. Used on the thread of the event loop.

    Args:
        tasks: of the round.
    """

    def __init__(self, tasks: AsyncIterator[PageTask]) -> None:
        self._tasks = tasks
        self._returned: deque[_Returned] = deque()
        self._losses: dict[int, int] = {}
        self._next: asyncio.Task[PageTask | None] | None = None
        self._has_ended = False
        self._shares = 0
        self._changed = asyncio.Condition()
        self._taking = asyncio.Lock()

    async def has_more(self) -> bool:
        """Return whether there may be a share to take, which is then counted as taken.

        At the end of the tasks it waits for the other machines: one that is lost leaves tasks behind.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._returned or not (self._has_ended and self._shares))
            if self._has_ended and not self._returned:
                return False
            self._shares += 1
            return True

    async def end_share(self, unfinished: Collection[PageTask], *, is_lost: bool) -> list[PageTask]:
        """Take the tasks back that a machine has not finished.

        Args:
            unfinished: the tasks.
            is_lost: whether the machine was lost with them.

        Returns:
            Those that are set aside, because too many machines were lost with them.
        """
        set_aside = []
        async with self._changed:
            for task in unfinished:
                losses = self._losses[task.row_id] = self._losses.get(task.row_id, 0) + is_lost
                # The next machine that is lost with it is lost with few others, and the last one with no other.
                pages = MOST_PAGES if not losses else max(SUSPECT_PAGES, len(unfinished) // SUSPECT_SHARES)
                if losses >= LOSSES:
                    set_aside.append(task)
                else:
                    self._returned.append(_Returned(task, losses, 1 if losses == LOSSES - 1 else pages))
            self._shares -= 1
            self._changed.notify_all()
        return set_aside

    async def take_new(self) -> PageTask | None:
        """Return the next task that no machine has had; None if there is none."""
        async with self._taking:
            if self._has_ended:
                return None
            # A machine that is lost while it waits leaves the task to the next one.
            self._next = self._next or asyncio.ensure_future(anext(self._tasks, None))
            task, self._next = await asyncio.shield(self._next), None
            self._has_ended = task is None
            return task

    def take_returned(self, losses: int | None = None) -> _Returned | None:
        """Return a task that a machine has left; None if there is none.

        Args:
            losses: of the task; None for one with the fewest.
        """
        wanted = min((each.losses for each in self._returned), default=None) if losses is None else losses
        found = next((each for each in self._returned if each.losses == wanted), None)
        if found is not None:
            self._returned.remove(found)
        return found

    async def close(self) -> None:
        """Wait for no further task."""
        if self._next is not None:
            await _cancel([self._next])


class _Share:
    """The tasks that a machine takes before it takes the next share: new ones, or returned ones.

    Args:
        deal: where they come from.
        pages: how many there are at most, without those whose outputs it only fetches.
        recovered: the row ids of those; it grows.
    """

    def __init__(self, deal: _Deal, pages: int, recovered: Collection[int]) -> None:
        self._deal, self._pages, self._recovered = deal, pages, recovered
        self._losses: int | None = None
        """Of each of its tasks, once there is one."""
        self.open: dict[int, PageTask] = {}
        """Those without an outcome, by their row ids."""

    async def tasks(self) -> AsyncIterator[PageTask]:
        """Yield the tasks as the machine takes them."""
        pages = 0
        while pages < self._pages and (task := await self._take()) is not None:
            self.open[task.row_id] = task
            yield task
            # The machine has looked at it when it wants the next one.
            pages += task.row_id not in self._recovered

    async def _take(self) -> PageTask | None:
        """Return the next task: a new one, and only without any a returned one. The two are never in one share."""
        if not self._losses and (task := await self._deal.take_new()) is not None:
            self._losses = 0
            return task
        returned = self._deal.take_returned(self._losses)
        if returned is None:
            return None
        self._losses, self._pages = returned.losses, min(self._pages, returned.pages)
        return returned.task


def _set_aside(task: PageTask) -> PageOutcome:
    reason = f"{LOSSES} machines were lost while they had this page; it is set aside"
    return failed_page(task.row_id, task.source, PageError(CRASH, reason))


async def _cancel(tasks: Collection[asyncio.Task[T]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _ignore(event: object) -> None:
    """Ignore an event."""
