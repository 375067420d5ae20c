"""The engines of this machine, each with a thread of its own. What a run knows of an engine, it knows from here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from comic_upscale.engines.base import Engine, EngineInfo, devices_in_words
from comic_upscale.engines.pages import upscale_pages
from comic_upscale.engines.registry import unused_gpu_warning
from comic_upscale.errors import ComicUpscaleError, DeviceError, PageError
from comic_upscale.execution.base import ExecutorInfo
from comic_upscale.execution.events import StageMeter
from comic_upscale.execution.local.flow import total_memory
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.settings.job import JobSettings

log = logging.getLogger(__name__)

PIXEL_BUDGET = 96_000_000
"""Output pixels in flight for each GPU: about 40 pages of 1280 x 1920, at most about 600 MB decoded and encoded."""
WORKER_BUDGET = 24_000_000
"""Output pixels in flight for each worker beside a GPU, where that is more: large scans keep all workers busy, too."""
MEMORY_BYTES = 32
"""Bytes of the machine's memory for each output pixel in flight, at least: a quarter of it at most is in flight."""


def pixel_budget(workers: int, engines: Sequence[Engine]) -> int:
    """Return how many output pixels may be in flight, from decoding until somebody takes the outcome."""
    gpus = sum(not engine.info.device.is_cpu for engine in engines)
    if not gpus:
        # The processor is at work in any case.
        return PIXEL_BUDGET
    wanted = max(PIXEL_BUDGET * gpus, WORKER_BUDGET * workers)
    return max(PIXEL_BUDGET, min(wanted, total_memory() // MEMORY_BYTES))


class Devices:
    """Engines at work; used on the loop's thread.

    Args:
        engines: at least one; they take from the same pages.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix="device") for _ in engines]
        self.meter = StageMeter(len(self._engines))
        """How busy the engines are."""

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def engine(self) -> EngineInfo:
        """What is known of the engines: they differ in their devices alone."""
        return self._engines[0].info

    def warnings(self, settings: JobSettings) -> tuple[str, ...]:
        """What the user should know of the engines, and of a GPU that is not used."""
        idle = unused_gpu_warning(settings, self._engines)
        own = dict.fromkeys(warning for engine in self._engines for warning in engine.info.warnings)
        return (*(() if idle is None else (idle,)), *own)

    def info(self) -> ExecutorInfo:
        """Return what the engines compute with now."""
        return ExecutorInfo(
            device=devices_in_words(self._engines),
            precision=self.engine.precision,
            native_scale=self.engine.native_scale,
        )

    def pixel_budget(self, workers: int) -> int:
        """Return how many output pixels may be in flight beside these engines."""
        return pixel_budget(workers, self._engines)

    def batch_limit(self, engine_index: int, size: tuple[int, int]) -> int:
        """Return how many pages of a size (width, height) an engine takes at once now."""
        return self._engines[engine_index].batch_limit(size[1], size[0])

    async def run_engine(
        self, engine_index: int, pages: list[Pixels], target: tuple[int, int], *, conservative: bool = False
    ) -> list[Pixels | PageError]:
        """Take pages of one shape through the network of a device.

        Args:
            engine_index: of the engine.
            pages: as `prepare` returns them.
            target: (width, height) in pixels that they get.
            conservative: whether by the most conservative path, however slow.

        Returns:
            Each page at its target size, or why it could not be done, in the order given.

        Raises:
            DeviceError: the device can do nothing any more.
        """
        engine = self._engines[engine_index]
        self.meter.begin()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads[engine_index],
                partial(upscale_pages, engine, pages, target, conservative=conservative),
            )
        except ComicUpscaleError:
            raise
        except MemoryError:
            return [PageError("out-of-memory", "not enough memory for this page")] * len(pages)
        except Exception as error:
            log.exception("the engine failed")
            raise DeviceError(
                f"the network failed on {engine.info.device} in an unforeseen way: {error!r}. Run the same command "
                "again; if it fails again, try --device cpu or --precision fp32, and report it"
            ) from error
        finally:
            self.meter.end()

    def close(self) -> None:
        """End the threads, and give the devices' memory back."""
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        for engine in self._engines:
            engine.close()
