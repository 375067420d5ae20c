"""The workers that decode and encode: threads, each with a process of its own where a fast device needs that.

Threads of one Python process share its interpreter lock. Measured with a network of 3 ms a page on an H100: threads on
16 cores finish a page every 21 to 27 ms and keep only five of the cores at work.
"""

from __future__ import annotations

import logging
import queue
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, ParamSpec, TypeVar, overload

from comic_upscale.engines.base import DeviceInfo
from comic_upscale.execution.base import run_in
from comic_upscale.execution.events import StageMeter
from comic_upscale.execution.local.page import PageInFlight
from comic_upscale.execution.local.steps import Decoded, Encoded, Finished, PageSteps
from comic_upscale.execution.local.worker_process import StartError, WorkerProcess

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

THREADS_ARE_ENOUGH = 4
"""So many workers scale as threads (on the H100's machine: 29 ms a page, 3.8 of four cores at work)."""


SHORT_JOB = 64
"""Steps that threads do before processes start. A process takes most of a second to start, and a few pages are done by
then."""


def feeds_fast_device(workers: int, device: DeviceInfo) -> bool:
    """Return whether workers should be processes: for a GPU, with more workers than threads serve well."""
    # Anonymous files are Linux's.
    return sys.platform == "linux" and not device.is_cpu and workers > THREADS_ARE_ENOUGH


class Workers:
    """The threads that decode and encode, with their meters.

    Args:
        count: number of threads.
        steps: what they do with a page.
        processes: whether each thread has a process of its own for `compute`.
    """

    def __init__(self, count: int, steps: PageSteps, *, processes: bool = False) -> None:
        self.count = count
        """Number of threads."""
        self.meters = {stage: StageMeter(count) for stage in ("decode", "encode")}
        """How busy each stage is."""
        self._steps = steps
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._steps_begun = 0
        self._starts = processes
        """Whether processes start, as far as is known."""
        self._processes = [WorkerProcess(steps) for _ in range(count)] if processes else []
        self._idle: queue.LifoQueue[WorkerProcess] = queue.LifoQueue()
        for process in self._processes:
            self._idle.put(process)

    async def run(
        self, stage: str, page: PageInFlight, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a short function on a thread, and add its time to a stage of the page."""

        def timed() -> tuple[T, float]:
            start = time.perf_counter()
            return function(*args, **kwargs), time.perf_counter() - start

        self.meters[stage].begin()
        try:
            result, seconds = await run_in(self._threads, timed)
        finally:
            self.meters[stage].end()
        page.add_seconds(stage, seconds)
        return result

    @overload
    async def compute(
        self, stage: str, page: PageInFlight, step: Literal["decode"], *args: Any
    ) -> Decoded: ...

    @overload
    async def compute(
        self, stage: str, page: PageInFlight, step: Literal["finish"], *args: Any
    ) -> Finished: ...

    @overload
    async def compute(
        self, stage: str, page: PageInFlight, step: Literal["encode"], *args: Any
    ) -> Encoded: ...

    async def compute(
        self, stage: str, page: PageInFlight, step: Literal["decode", "finish", "encode"], *args: Any
    ) -> Decoded | Finished | Encoded:
        """Run a step of `PageSteps`, and add its time to a stage of the page.

        Raises:
            PageError: of the step, or ``"crash"`` if the worker process ended.
        """
        result: Decoded | Finished | Encoded = await self.run(stage, page, self._compute, step, args)
        return result

    def _compute(self, step: Literal["decode", "finish", "encode"], args: tuple[Any, ...]) -> Any:
        self._steps_begun += 1
        if not self._starts or self._steps_begun <= SHORT_JOB:
            return getattr(self._steps, step)(*args)
        # There are as many processes as threads, so one is idle. The last one used has the most warm memory.
        process = self._idle.get()
        try:
            return process.call(step, args)
        except StartError as error:
            if self._starts:
                self._starts = False
                log.warning("worker processes do not start, so threads do their work: %s", error)
            return getattr(self._steps, step)(*args)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the threads and the processes."""
        self._threads.shutdown(cancel_futures=True)
        # All at once, before waiting for each.
        for process in self._processes:
            process.hang_up()
        for process in self._processes:
            process.close()
