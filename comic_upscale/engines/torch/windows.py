"""Runs windows of pages, whole pages or tiles, through a network, and resamples what it gives to the target size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from comic_upscale.engines.limits import Limits
from comic_upscale.engines.tiling import Tile, padded_size, plan_tiles
from comic_upscale.engines.torch.alone import OCCUPANCY
from comic_upscale.engines.torch.device import free_memory
from comic_upscale.engines.torch.device_errors import first_line, is_lost_device, is_too_much
from comic_upscale.engines.torch.finishing import Finisher
from comic_upscale.engines.torch.fused_resample import Cell, choose_resampling, resample_plainly, tables_of
from comic_upscale.engines.torch.host_memory import HostMemory
from comic_upscale.engines.torch.network_pass import NetworkPass, white
from comic_upscale.engines.torch.resample import prepare_resample, resample
from comic_upscale.imaging.pixels import SampleArray
from comic_upscale.models.network import Network

log = logging.getLogger(__name__)

MOST_VAIN = 8
"""After this many disturbed measurements of memory, the last one counts. Too large a peak makes batches smaller."""


COLLECTED_SHARE = 1 / 16
"""The share of the device's free memory in which the cells of pages may be collected. It comes on top of
`limits.MEMORY_SHARE`."""


class Stage:
    """The network in one precision, and its limits."""

    def __init__(self, forward: NetworkPass, limits: Limits) -> None:
        self.forward = forward
        self.limits = limits
        self.is_examined = False
        """Whether its limits take the network's examination into account."""
        self.vain_measurements = 0
        """How many measurements in a row another engine has disturbed."""


@dataclass(frozen=True, slots=True, eq=False)
class Started:
    """Pages on their way through the network."""

    _result: torch.Tensor
    _finite: torch.Tensor
    _done: torch.cuda.Event | None
    """None if the device is done."""

    def wait(self) -> tuple[SampleArray, NDArray[np.bool_]]:
        """Wait for the device; return the pages, and for each whether the network's numbers are finite.

        Raises:
            RuntimeError: the device failed.
        """
        if self._done is not None:
            self._done.synchronize()
        return self._result.numpy(), self._finite.numpy()


class WindowRunner:
    """Plans windows and runs them on a device.

    Args:
        network: says which windows it can take.
        device: the device.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        self._network = network
        self._device = device
        self.host = HostMemory(pinned=device.type == "cuda")
        """Memory for copies to the device and from it."""
        self._is_cpu = device.type == "cpu"
        self._fused = None if self._is_cpu else choose_resampling(device)[0]

    def stage_pages(self, pixels: SampleArray) -> torch.Tensor:
        """Return pages as windows are cut from them, in memory from which a device copies. Any thread may call it.

        Args:
            pixels: N x height x width x C.

        Raises:
            RuntimeError: the device is lost.
        """
        height, width = self._padded_size(pixels.shape[1:3])
        bottom, right = height - pixels.shape[1], width - pixels.shape[2]
        # torch needs writable memory. A page that already has it is not copied.
        padded = np.require(pixels, requirements=["C", "W"])
        if bottom or right:
            padded = np.pad(pixels, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")
        return self.host.for_copy(torch.from_numpy(padded))

    def start(
        self,
        stage: Stage,
        staged: torch.Tensor,
        size: tuple[int, ...],
        target: tuple[int, int],
        tiles: list[Tile],
        count: int,
        finisher: Finisher | None = None,
    ) -> Started:
        """Run the pages through the network, at most ``count`` windows at once. A GPU may not be done at the return.

        Args:
            stage: the network.
            staged: the result of `stage_pages`.
            size: height and width of the pages.
            target: height and width of the outputs.
            tiles: the windows of each page.
            count: windows at once.
            finisher: finishes the outputs, which are whole pages then; None for raw outputs.
        """
        pages_in_all = len(staged)
        samples = _type_on(self._device, staged.dtype)
        result = self.host.empty((pages_in_all, *target, staged.shape[3]), samples)
        collected = self._collect_in(result, tiles)
        marks = torch.zeros(pages_in_all, dtype=torch.float32, device=self._device)
        with OCCUPANCY.batch_on(self._device) as was_alone:
            for group in _runs(pages_in_all, max(1, count // len(tiles))):
                source = staged[group].to(samples).to(self._device, non_blocking=self.host.pinned)
                windows = [(tile, page) for tile in range(len(tiles)) for page in range(len(source))]
                for chunk in _runs(len(windows), count):
                    self._run_chunk(
                        stage,
                        source,
                        tiles,
                        windows[chunk],
                        collected[group],
                        marks[group],
                        size,
                        was_alone,
                        None if finisher is None else finisher.from_page(group.start),
                    )
            if collected is not result:
                result.copy_(collected, non_blocking=self.host.pinned)
        finite = torch.isfinite(marks)
        if self._device.type != "cuda":
            return Started(result.to(staged.dtype), finite.cpu(), None)
        found = self.host.empty(finite.shape, finite.dtype).copy_(finite, non_blocking=self.host.pinned)
        # The copies of whole pages above come before it in the same stream. Waiting for it leaves the core to others.
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))
        return Started(result, found, done)

    def _collect_in(self, result: torch.Tensor, tiles: list[Tile]) -> torch.Tensor:
        """Return memory for the cells of pages: that of the result, or for tiles perhaps as much on the device.

        The host waits for the copy of each cell that is not a whole page, but not for one copy of whole pages.
        """
        if len(tiles) == 1 or not self._has_room_for(result):
            return result
        try:
            return torch.empty_like(result, device=self._device)
        except RuntimeError as error:
            if not is_too_much(error):
                raise
            return result

    def _has_room_for(self, result: torch.Tensor) -> bool:
        free = free_memory(self._device)
        return free is not None and result.nbytes <= COLLECTED_SHARE * free

    def _run_chunk(
        self,
        stage: Stage,
        source: torch.Tensor,
        tiles: list[Tile],
        windows: list[tuple[int, int]],
        result: torch.Tensor,
        marks: torch.Tensor,
        page_size: tuple[int, ...],
        was_alone: Callable[[], bool],
        finish: Callable[[torch.Tensor, int], None] | None,
    ) -> None:
        """Run windows, given as (tile, page), through the network in one batch, and write their cells and marks.

        Whole pages are finished before they are written; ``finish`` takes them and the index of the first.
        """
        scale = self._network.native_scale
        whole = (page_size[0] * scale, page_size[1] * scale)
        if len(tiles) == 1:
            x = source[windows[0][1] : windows[-1][1] + 1]
        else:
            x = torch.stack(
                [
                    source[page, slice(*tiles[index].rows), slice(*tiles[index].columns)]
                    for index, page in windows
                ]
            )
        pixels = x.shape[0] * x.shape[1] * x.shape[2] * stage.forward.planes(x.shape[3])
        cells = {
            index: Cell(
                whole,
                (result.shape[1], result.shape[2]),
                (tiles[index].rows.start * scale, tiles[index].columns.start * scale),
                tiles[index].cell_rows,
                tiles[index].cell_columns,
            )
            for index in dict.fromkeys(tile for tile, _ in windows)
        }
        for cell in cells.values():
            # Before the network, because copying new coefficients waits for everything in the queue.
            self._prepare(cell, result.dtype)
        measure = stage.limits.wants(pixels)
        before = _start_measuring(self._device) if measure else 0
        finite, mixes = None, False
        if self._is_cpu:
            native, finite = stage.forward(x)
        else:
            native, mixes = stage.forward.raw(x)
        done = 0
        # Windows of one tile are adjacent, whatever their page, and share the weights of the resampling.
        for index, same in groupby(windows, key=lambda window: window[0]):
            cell, pages = cells[index], [page for _, page in same]
            made = slice(done, done + len(pages))
            place = slice(pages[0], pages[-1] + 1)
            done = made.stop
            target = result[place, slice(*cell.rows), slice(*cell.columns)]
            if finite is not None:
                marks[place] += finite[made]
                levels = resample(native[made], **cell._asdict())
                levels = levels.clamp_(0, 1).mul_(white(result.dtype)).round_()
                # Channel by channel: all at once took twice as long.
                for channel in range(levels.shape[1]):
                    target[..., channel].copy_(levels[:, channel])
                if finish is not None:
                    finish(target, place.start)
                continue
            samples, numbers = self._resample(native[made], cell, mixes, result.dtype)
            marks[place] += numbers
            if finish is not None:
                finish(samples, place.start)
            # Only whole pages are contiguous in a pinned result, and are copied while the host continues.
            target.copy_(samples, non_blocking=self.host.pinned and target.is_contiguous())
        if measure:
            stage.vain_measurements = 0 if was_alone() else stage.vain_measurements + 1
        # With another engine on the device, the peak is that of both. Where it never is alone, that has to do.
        if measure and stage.vain_measurements in (0, MOST_VAIN):
            stage.vain_measurements = 0
            stage.limits.learn(pixels, torch.cuda.max_memory_allocated(self._device) - before)

    def _resample(
        self, native: torch.Tensor, cell: Cell, mixes: bool, samples: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Resample in two kernels if they have proved themselves here and write such samples, otherwise plainly."""
        if self._fused is None or samples != torch.uint8:
            return resample_plainly(native, cell, mixes, samples)
        try:
            return self._fused(native, cell, mixes)
        except Exception as error:
            # It compiles once more for other types and layouts.
            if is_too_much(error) or is_lost_device(error):
                raise
            log.debug("plain resampling from now on: %s", first_line(error))
            self._fused = None
        return resample_plainly(native, cell, mixes, samples)

    def _prepare(self, cell: Cell, samples: torch.dtype) -> None:
        """Put what `_resample` needs for a cell on the device."""
        if self._fused is None or samples != torch.uint8:
            prepare_resample(cell.source_size, cell.target_size, cell.rows, cell.columns, self._device)
        else:
            tables_of(cell, self._device)

    def plan(self, stage: Stage, page: tuple[int, ...], target: tuple[int, int], overlap: int) -> list[Tile]:
        """Return the windows of a page (height, width): one for the whole page if it fits, otherwise even tiles."""
        network = self._network
        return plan_tiles(
            (page[0], page[1]),
            target,
            native_scale=self._network.native_scale,
            longest=stage.limits.longest(page[0], page[1]),
            overlap=overlap,
            multiple_of=network.multiple_of,
            minimum=network.minimum,
            square=network.square,
        )

    def _padded_size(self, page: tuple[int, ...]) -> tuple[int, int]:
        network = self._network
        return padded_size(
            page[0],
            page[1],
            multiple_of=network.multiple_of,
            minimum=network.minimum,
            square=network.square,
        )

    def at_once(self, stage: Stage, tiles: list[Tile], channels: int) -> int:
        """Return how many windows go through the network at once."""
        height, width = tiles[0].rows.length, tiles[0].columns.length
        planes = stage.forward.planes(channels)
        return stage.limits.batch(height, width * planes, free_memory(self._device))


def _type_on(device: torch.device, samples: torch.dtype) -> torch.dtype:
    """Return the type that holds samples on a device. On MPS, PyTorch before 2.9 has no uint16."""
    return torch.int32 if device.type == "mps" and samples == torch.uint16 else samples


def _runs(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _start_measuring(device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
