"""The engines of this machine, each with threads of its own. A run accesses engines only through this module."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.base import (
    Engine,
    EngineInfo,
    FinishPlan,
    OnPart,
    OutputFilter,
    ask_for,
    batches_at_once,
    charge,
    devices_in_words,
    follow,
    interrupt,
)
from comic_upscale.engines.pages import upscale_pages
from comic_upscale.engines.registry import unused_gpu_warning
from comic_upscale.errors import ComicUpscaleError, DeviceError, PageError
from comic_upscale.execution.base import ExecutorInfo
from comic_upscale.execution.events import StageMeter
from comic_upscale.execution.local.flow import total_memory
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.answers import AskingPage

log = logging.getLogger(__name__)

PIXEL_BUDGET = 96_000_000
"""Output pixels in flight per GPU: about 40 pages of 1280 x 1920, at most about 900 MB decoded, as rows of a PNG and
encoded."""
WORKER_BUDGET = 24_000_000
"""Output pixels in flight per worker with a GPU, if that is more: so large scans keep all workers busy, too."""
MEMORY_BYTES = 32
"""Bytes of RAM per output pixel in flight: this caps the pages in flight at about a quarter of RAM."""


def pixel_budget(workers: int, engines: Sequence[Engine]) -> int:
    """Return how many output pixels may be in flight, from decoding until the outcome is taken."""
    gpus = sum(not engine.info.device.is_cpu for engine in engines)
    if not gpus:
        # A CPU is busy in any case.
        return PIXEL_BUDGET
    wanted = max(PIXEL_BUDGET * gpus, WORKER_BUDGET * workers)
    return max(PIXEL_BUDGET, min(wanted, total_memory() // MEMORY_BYTES))


def _place(engine: Engine) -> tuple[str, int | None]:
    """Return what identifies the device of an engine, whatever network the engine holds."""
    return engine.info.device.kind, engine.info.device.index


class Devices:
    """The open engines; used on the thread of the event loop.

    Args:
        engines: at least one; they share the pages.
        filters: applied to each page after its engine, on the thread of the engine.
        meter: measures how busy they are, together with other engines on the same devices; None for a new one.
        failed: the devices that failed, known to all engines on them; None for a new set.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        meter: StageMeter | None = None,
        failed: set[tuple[str, int | None]] | None = None,
        filters: Sequence[OutputFilter] = (),
    ) -> None:
        self._engines = list(engines)
        self._filters = list(filters)
        self._filtering = threading.Lock()
        self._threads = [
            ThreadPoolExecutor(batches_at_once(engine), thread_name_prefix="device") for engine in engines
        ]
        self._calls = [0] * len(self._engines)
        """Calls of each engine in progress."""
        self.failed = set() if failed is None else failed
        """The devices that failed."""
        self.meter = meter or StageMeter(len(self._engines))
        """How busy the engines are."""

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def engine(self) -> EngineInfo:
        """The info of the engines, which differ only in their devices."""
        return self._engines[0].info

    def warnings(self, settings: JobSettings) -> tuple[str, ...]:
        """Return warnings about the engines, and about a GPU that is not used."""
        idle = unused_gpu_warning(settings, self._engines)
        own = dict.fromkeys(warning for engine in self._engines for warning in engine.info.warnings)
        return (*(() if idle is None else (idle,)), *own)

    def info(self) -> ExecutorInfo:
        """Return the current devices and precision of the engines."""
        return ExecutorInfo(
            device=devices_in_words([self._engines[index] for index in self._working()]),
            precision=self.engine.precision,
            native_scale=self.engine.native_scale,
        )

    def charge(self, spending: Spending | None) -> None:
        """Let engines that are billed by call record their calls in the meter of the run."""
        for engine in self._engines:
            charge(engine, spending)

    def give_up(self, engine_index: int) -> bool:
        """Note that the device of an engine failed; return whether another device still works."""
        place = _place(self._engines[engine_index])
        if all(_place(engine) in {*self.failed, place} for engine in self._engines):
            return False
        if place not in self.failed:
            device = self._engines[engine_index].info.device
            log.warning("%s is no longer used in this run; the other devices go on", device)
        self.failed.add(place)
        return True

    def works(self, engine_index: int) -> bool:
        """Return whether the device of an engine has not failed."""
        return _place(self._engines[engine_index]) not in self.failed

    def instead_of(self, engine_index: int) -> int:
        """Return the index of this engine if its device works, otherwise that of another one."""
        return engine_index if self.works(engine_index) else self._working()[0]

    def _working(self) -> list[int]:
        return [index for index in range(len(self._engines)) if self.works(index)]

    def pixel_budget(self, workers: int) -> int:
        """Return how many output pixels may be in flight with these engines."""
        return pixel_budget(workers, self._engines)

    def batches_at_once(self, engine_index: int) -> int:
        """Return how many batches an engine takes at the same time."""
        return batches_at_once(self._engines[engine_index])

    def batch_limit(self, engine_index: int, size: tuple[int, int]) -> int:
        """Return the current batch size of an engine for pages of a size (width, height)."""
        return self._engines[engine_index].batch_limit(size[1], size[0])

    async def run_engine(
        self,
        engine_index: int,
        pages: list[Pixels],
        target: tuple[int, int],
        *,
        conservative: bool = False,
        finish_plan: FinishPlan | None = None,
        on_part: OnPart | None = None,
        asking: AskingPage | None = None,
    ) -> list[Pixels | PageError]:
        """Run pages of one shape through the network of an engine.

        Args:
            engine_index: of the engine.
            pages: as returned by `prepare`.
            target: (width, height) of the outputs, in pixels.
            conservative: whether to use the most conservative path, however slow.
            finish_plan: how an engine may finish the pages; None to leave them raw.
            on_part: takes what an engine whose calls take minutes has done, on the thread of the engine.
            asking: the page of the job, for an engine that takes one at a time and keeps answers.

        Returns:
            For each page, in order, the page at its target size, or why it failed.

        Raises:
            DeviceError: the device has failed.
        """
        engine = self._engines[engine_index]
        self._begin(engine_index)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads[engine_index],
                partial(self._upscale, engine, pages, target, conservative, finish_plan, on_part, asking),
            )
        except ComicUpscaleError:
            raise
        except MemoryError:
            return [PageError("out-of-memory", "not enough memory for this page")] * len(pages)
        except Exception as error:
            log.exception("the engine failed")
            raise DeviceError(
                f"unexpected error of the network on {engine.info.device}: {error!r}. Run the same command "
                "again; if it fails again, try --device cpu or --precision fp32, and report the error"
            ) from error
        finally:
            self._end(engine_index)

    def _begin(self, engine_index: int) -> None:
        """Count a call. A device with two of them is as busy as with one."""
        if not self._calls[engine_index]:
            self.meter.begin()
        self._calls[engine_index] += 1

    def _end(self, engine_index: int) -> None:
        self._calls[engine_index] -= 1
        if not self._calls[engine_index]:
            self.meter.end()

    def _upscale(
        self,
        engine: Engine,
        pages: list[Pixels],
        target: tuple[int, int],
        conservative: bool,
        finish_plan: FinishPlan | None,
        on_part: OnPart | None,
        asking: AskingPage | None,
    ) -> list[Pixels | PageError]:
        follow(engine, on_part)
        ask_for(engine, asking)
        results = upscale_pages(
            engine,
            pages,
            target,
            conservative=conservative,
            # Filters see the raw page.
            finish_plan=None if self._filters else finish_plan,
        )
        if self._filters and conservative:
            # The gate rejected the page as the filters left it.
            note = "without filters, since the quality gate rejected the page"
            return [
                result if isinstance(result, PageError) else replace(result, notes=(*result.notes, note))
                for result in results
            ]
        for each in self._filters:
            # Engines have threads of their own, and share the filters.
            with self._filtering:
                results = [
                    result if isinstance(result, PageError) else each.apply(result, page)
                    for result, page in zip(results, pages, strict=True)
                ]
        return results

    def close(self) -> None:
        """Interrupt the engines, end the threads, and release the memory of the devices."""
        # The result of a batch in progress is no longer needed.
        for engine in self._engines:
            interrupt(engine)
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        for engine in self._engines:
            engine.close()
