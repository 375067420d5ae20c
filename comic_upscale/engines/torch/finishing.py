"""Finish pages on their device: what the host would do with them after the network, while their pixels are there.

A fast GPU waits for the host, which spends tens of milliseconds of a core on each page. This module takes over what
goes over all pixels of a page: restoring tone and solid areas, the measures of the quality gate, and the filter of PNG
rows. The results equal those of the host to the bit, so an output does not depend on who finished it. Sums are sums of
whole numbers, which have no order. Each step in floating point is a single operation, as on the host.

Left to the host are pages with transparency, 16 bits, faint lines or tiles, second attempts, those of ``--raw``, and
those that the device has no memory to finish.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from comic_upscale.engines.base import FinishPlan
from comic_upscale.engines.torch.device import stream_of
from comic_upscale.engines.torch.host_memory import HostMemory
from comic_upscale.gate.measures import MeasurePlan
from comic_upscale.gate.reduce import WEIGHT_BITS, filter_weights
from comic_upscale.gate.texture import EVERY, BendLines
from comic_upscale.imaging.codecs.png import PAETH
from comic_upscale.imaging.flat_areas import BLACK, WHITE, source_indices
from comic_upscale.imaging.pixels import Bends, DeviceWork, Paper, Pixels
from comic_upscale.imaging.tone import ENOUGH, ROUNDS, interpolate

_WHITE_LEVEL = 255
_MOST_SAMPLES = 1 << 25
"""Samples of pages that are finished at once: a step takes up to 15 bytes for each of them."""


class Finisher:
    """Finishes the pages of one batch, in parts.

    Args:
        plan: what to do.
        sources: the pages of the batch before the network.
        target: height and width of the outputs.
        host: memory for copies.
        device: where the outputs are.
    """

    def __init__(
        self,
        plan: FinishPlan,
        sources: Sequence[Pixels],
        target: tuple[int, int],
        host: HostMemory,
        device: torch.device,
    ) -> None:
        self._plan = plan
        self._host = host
        self._device = device
        self._count = len(sources)
        wanted = [(index, page) for index, page in enumerate(sources) if _is_finished_here(page)]
        self._places = {index: place for place, (index, _) in enumerate(wanted)}
        # Before the network, because the host waits for copies to the device.
        self._maps = _Maps.of([page for _, page in wanted], self._to_device) if wanted else None
        self._at_once = max(1, _MOST_SAMPLES // (target[0] * target[1] * sources[0].color.shape[2]))
        self._parts: list[_Part] = []

    def forget(self) -> None:
        """Forget the pages of an attempt that failed."""
        self._parts = []

    def from_page(self, first: int) -> Callable[[torch.Tensor, int], None]:
        """Return `finish` for the pages from this one on."""
        return lambda outputs, page: self.finish(outputs, first + page)

    def finish(self, outputs: torch.Tensor, first: int) -> None:
        """Finish outputs in place, and start to copy what belongs to them to the host.

        Args:
            outputs: uint8, pages x height x width x C, contiguous, on the device.
            first: index of the first of these pages in the batch.
        """
        indices = [index for index in range(first, first + len(outputs)) if index in self._places]
        for start in range(0, len(indices), self._at_once):
            part = indices[start : start + self._at_once]
            places = [index - first for index in part]
            # A slice shares the memory of the outputs.
            follow = places[-1] - places[0] + 1 == len(places)
            pages = outputs[places[0] : places[-1] + 1] if follow else outputs[places]
            self._parts.append(self._finish_part(pages, part))
            if not follow:
                outputs[places] = pages

    def black_pages(self) -> frozenset[int]:
        """Return the finished pages that were black before that. The device has been waited for."""
        return frozenset(
            index
            for part in self._parts
            for index, level in zip(part.indices, part.brightest.tolist(), strict=True)
            if level == 0
        )

    def work(self) -> tuple[DeviceWork | None, ...]:
        """Return what was done with each page of the batch. The device has been waited for."""
        found: list[DeviceWork | None] = [None] * self._count
        for part in self._parts:
            for place, index in enumerate(part.indices):
                found[index] = part.work_of(place)
        return tuple(found)

    def _finish_part(self, pages: torch.Tensor, indices: list[int]) -> _Part:
        assert self._maps is not None
        maps = self._maps.part(slice(self._places[indices[0]], self._places[indices[-1]] + 1))
        measures = self._plan.measures
        part = _Part(indices, self._to_host(pages.amax((1, 2, 3))))
        if measures is not None:
            part.raw_small = self._to_host(shrink(pages, measures))
        restore_tones(pages, maps)
        restore_solids(pages, maps)
        if measures is not None:
            part.small = self._to_host(shrink(pages, measures))
            if measures.bends is not None:
                green = pages[..., pages.shape[3] // 2]
                part.along_rows = self._to_host(measure_bends(green[:, ::EVERY], measures.bends.rows))
                columns = green[:, :, ::EVERY].transpose(1, 2)
                part.along_columns = self._to_host(measure_bends(columns, measures.bends.columns))
        if self._plan.png_rows:
            part.png_rows = self._to_host(filter_rows(pages))
        return part

    def _to_device(self, arrays: Sequence[NDArray[Any]]) -> torch.Tensor:
        copied = self._host.for_copy(torch.from_numpy(np.stack(arrays)))
        return copied.to(self._device, non_blocking=self._host.pinned)

    def _to_host(self, found: torch.Tensor) -> torch.Tensor:
        """Start a copy to the host."""
        if self._device.type == "cpu":
            return found
        return self._host.empty(found.shape, found.dtype).copy_(found, non_blocking=self._host.pinned)


def _is_finished_here(page: Pixels) -> bool:
    return page.alpha is None and page.bits == 8 and page.faint is None and page.tone is not None


@dataclass(frozen=True, slots=True, eq=False)
class _Maps:
    """What `prepare` noted of pages, on the device; each N x rows x columns, tone and shortfall with channels."""

    source: tuple[int, ...]
    """Height and width of the sources."""
    tone: torch.Tensor
    shortfall: torch.Tensor | None
    """None if no page has paper."""
    share: torch.Tensor | None
    """None if no page has paper."""
    has_paper: torch.Tensor | None
    """N; None if no page has paper."""
    solid: torch.Tensor | None
    """None if no page has solid areas."""

    @classmethod
    def of(cls, pages: Sequence[Pixels], copy: Callable[[Sequence[NDArray[Any]]], torch.Tensor]) -> _Maps:
        """Copy the maps of pages of one shape to the device."""
        source = pages[0].color.shape[:2]
        tones = [page.tone for page in pages if page.tone is not None]
        shortfall = share = has_paper = solid = None
        if any(page.paper is not None for page in pages):
            nothing = Paper(np.zeros_like(tones[0]), np.zeros_like(tones[0][..., :1]))
            papers = [page.paper or nothing for page in pages]
            shortfall = copy([paper.shortfall for paper in papers])
            share = copy([paper.share for paper in papers])
            has_paper = copy([np.array(page.paper is not None) for page in pages])
        if any(page.solid is not None for page in pages):
            plain = np.zeros(source, np.uint8)
            solid = copy([plain if page.solid is None else page.solid for page in pages])
        return cls(source, copy(tones), shortfall, share, has_paper, solid)

    def part(self, pages: slice) -> _Maps:
        """Return the maps of some of the pages."""
        tensors = (self.shortfall, self.share, self.has_paper, self.solid)
        return _Maps(
            self.source, self.tone[pages], *(None if each is None else each[pages] for each in tensors)
        )


@dataclass(slots=True, eq=False)
class _Part:
    """Pages that were finished together: what was found of them, on the host."""

    indices: list[int]
    """Of the pages in the batch."""
    brightest: torch.Tensor
    """The brightest sample of each raw output."""
    raw_small: torch.Tensor | None = None
    small: torch.Tensor | None = None
    along_rows: torch.Tensor | None = None
    along_columns: torch.Tensor | None = None
    png_rows: torch.Tensor | None = None

    def work_of(self, place: int) -> DeviceWork:
        """Return what was done with one of the pages."""
        raw_small, small, along_rows, along_columns, png_rows = (
            None if each is None else each[place].numpy()
            for each in (self.raw_small, self.small, self.along_rows, self.along_columns, self.png_rows)
        )
        bends = None if along_rows is None or along_columns is None else Bends(along_rows, along_columns)
        return DeviceWork(raw_small, small, bends, png_rows)


def shrink(pages: torch.Tensor, measures: MeasurePlan) -> torch.Tensor:
    """Return pages for the quality gate, as `MeasurePlan.shrink` does, in Pillow's arithmetic."""
    (columns, rows), shape = measures.grid.size, tuple(pages.shape[1:])
    if not measures.grid.is_whole:
        right, bottom = measures.grid.end(shape)
        return _filtered(_filtered(pages, 2, columns, right), 1, rows, bottom)
    across, down = measures.grid.block(shape)
    blocks = pages[:, : rows * down, : columns * across].view(len(pages), rows, down, columns, across, -1)
    count = across * down
    sums = blocks.sum((2, 4), dtype=torch.int64)
    return sums.add_(count // 2).mul_((1 << 24) // count).bitwise_right_shift_(24).to(torch.uint8)


def _filtered(pages: torch.Tensor, axis: int, count: int, end: float) -> torch.Tensor:
    """Shrink an axis to this many pixels by Pillow's filter. It ends here, and begins at 0."""
    places, weights = _filter_table(pages.shape[axis], count, end, *_place(pages))
    shape = [1] * pages.ndim
    shape[axis] = count
    # Weights add up to 2 ** 22, so sums of samples of 8 bits stay below 2 ** 31.
    total = torch.full((1,), 1 << (WEIGHT_BITS - 1), dtype=torch.int32, device=pages.device)
    for place, weight in zip(places, weights, strict=True):
        total = total + pages.index_select(axis, place).to(torch.int32) * weight.view(shape)
    return total.bitwise_right_shift_(WEIGHT_BITS).clamp_(0, _WHITE_LEVEL).to(torch.uint8)


def restore_tones(pages: torch.Tensor, maps: _Maps) -> None:
    """Restore the averages of pages, in place, as `restore_tone` does.

    Args:
        pages: uint8, N x height x width x C.
        maps: of these pages.
    """
    tone, cells = maps.tone, maps.tone.shape[1:3]
    white, others = None, None
    if maps.shortfall is not None and maps.share is not None and maps.has_paper is not None:
        white = (pages.amin(3) == _WHITE_LEVEL) & maps.has_paper[:, None, None]
        share = _average_cells(white.to(torch.uint8).unsqueeze(3), cells)
        tone = tone + maps.shortfall * (share / maps.share.clamp(min=1e-6)).clamp(max=1)
        others = 1 - (share - maps.share).clamp(min=0)
    moved, places = pages, torch.arange(len(pages), device=pages.device)
    for _ in range(ROUNDS):
        difference = tone - _average_cells(moved, cells)
        if others is not None:
            difference = torch.maximum(difference, difference * others)
        means = difference.mean((1, 2), dtype=torch.float64).abs().amax(1)
        # The host waits here. Most pages are right as they are, and to change them takes longer.
        wrong = (means > ENOUGH).nonzero().squeeze(1)
        if not len(wrong):
            return
        tone, places = tone[wrong], places[wrong]
        others, white = (None if each is None else each[wrong] for each in (others, white))
        moved = _added(moved[wrong], difference[wrong], white)
        pages[places] = moved


def restore_solids(pages: torch.Tensor, maps: _Maps) -> None:
    """Make solid white and black areas of pages pure, in place, as `restore_solid` does."""
    if maps.solid is None:
        return
    rows, columns = _source_places(maps.source, pages.shape[1:3], *_place(pages))
    marks = maps.solid.index_select(1, rows).index_select(2, columns).unsqueeze(3)
    pages.masked_fill_((marks & WHITE).bool(), _WHITE_LEVEL)
    pages.masked_fill_((marks & BLACK).bool(), 0)


def measure_bends(lines: torch.Tensor, plan: BendLines) -> torch.Tensor:
    """Return the mean squares of second differences in blocks, as `BendLines.measure` does: N x across x along.

    Args:
        lines: uint8, N x lines x samples.
        plan: the blocks.
    """
    levels = lines[:, : plan.across[-1], : plan.along[-1] + 2].to(torch.int32)
    bends = 2 * levels[..., 1:-1] - levels[..., :-2] - levels[..., 2:]
    sums = _sum_runs(_sum_runs(bends * bends, plan.along, 2), plan.across, 1)
    return (sums / _counts(plan.across, plan.along, *_place(lines))).to(torch.float32)


def filter_rows(pages: torch.Tensor) -> torch.Tensor:
    """Return the rows of PNGs, each byte less Paeth's prediction: N x height x (1 + width * C).

    Source: the PNG specification, third edition (W3C), "Filter type 4: Paeth".
    """
    count, height, width, channels = pages.shape
    padded = torch.nn.functional.pad(pages, (0, 0, 1, 0, 1, 0)).to(torch.int16)
    left, above, corner = padded[:, 1:, :-1], padded[:, :-1, 1:], padded[:, :-1, :-1]
    to_left, to_above = above - corner, left - corner
    to_corner = (to_left + to_above).abs_()
    to_left, to_above = to_left.abs_(), to_above.abs_()
    predicted = torch.where(to_above <= to_corner, above, corner)
    predicted = torch.where((to_left <= to_above) & (to_left <= to_corner), left, predicted)
    rows = torch.empty((count, height, 1 + width * channels), dtype=torch.uint8, device=pages.device)
    rows[:, :, 0] = PAETH
    rows[:, :, 1:] = (pages - predicted).to(torch.uint8).flatten(2)
    return rows


def _added(pages: torch.Tensor, difference: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """Return pages plus the difference of every cell, interpolated linearly between cells.

    Args:
        pages: N x height x width x C.
        difference: N x rows x columns x C.
        kept: pixels that do not become darker, N x height x width; None for none.
    """
    place = _place(pages)
    before, after, share = _interpolation(pages.shape[2], difference.shape[2], *place)
    wide = difference.index_select(2, before) * (1 - share)[:, None]
    wide += difference.index_select(2, after) * share[:, None]
    before, after, share = _interpolation(pages.shape[1], difference.shape[1], *place)
    weight = share[:, None, None]
    field = wide.index_select(1, before).mul_(1 - weight)
    field += wide.index_select(1, after).mul_(weight)
    if kept is not None:
        field = torch.where(kept.unsqueeze(3), field.clamp(min=0), field)
    field += pages
    return field.clamp_(0, _WHITE_LEVEL).round_().to(torch.uint8)


def _average_cells(pages: torch.Tensor, cells: Sequence[int]) -> torch.Tensor:
    """Return the average of every cell: N x rows x columns x C."""
    rows, columns = (
        tuple(cell * length // count for cell in range(count + 1))
        for count, length in zip(cells, pages.shape[1:3], strict=True)
    )
    sums = _sum_runs(_sum_runs(pages, rows, 1), columns, 2)
    return (sums / _counts(rows, columns, *_place(pages)).unsqueeze(2)).to(torch.float32)


def _sum_runs(values: torch.Tensor, edges: tuple[int, ...], axis: int) -> torch.Tensor:
    """Return the sums of whole numbers between the edges along an axis, int64."""
    index, valid = _runs(edges, *_place(values))
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    runs = values.index_select(axis, index.flatten()).view(*before, *index.shape, *after)
    if valid is not None:
        runs = runs * valid.view(*index.shape, *[1] * len(after)).to(values.dtype)
    return torch.sum(runs, axis + 1, dtype=torch.int64)


def _place(values: torch.Tensor) -> tuple[torch.device, int]:
    """Return the device and the stream of numbers, by which tables are cached."""
    return values.device, stream_of(values.device)


@functools.lru_cache(maxsize=64)
def _runs(
    edges: tuple[int, ...], device: torch.device, _stream: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the positions between the edges, run by run, all runs as long as the longest; and which are valid."""
    starts, ends = np.array(edges[:-1])[:, None], np.array(edges[1:])[:, None]
    index = starts + np.arange(int((ends - starts).max()))
    valid = index < ends
    places = torch.from_numpy(np.minimum(index, ends - 1)).to(device)
    return places, None if valid.all() else torch.from_numpy(valid).to(device)


@functools.lru_cache(maxsize=64)
def _counts(
    rows: tuple[int, ...], columns: tuple[int, ...], device: torch.device, _stream: int
) -> torch.Tensor:
    """Return the number of values between the edges of rows and columns, float64."""
    return torch.from_numpy(np.outer(np.diff(rows), np.diff(columns)).astype(np.float64)).to(device)


@functools.lru_cache(maxsize=64)
def _filter_table(
    length: int, count: int, end: float, device: torch.device, _stream: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pixels that each pixel of the result uses, and their weights; both taps x count."""
    places, weights = (
        torch.from_numpy(np.ascontiguousarray(each.T)).to(device)
        for each in filter_weights(length, count, end)
    )
    return places, weights


@functools.lru_cache(maxsize=64)
def _interpolation(
    length: int, cells: int, device: torch.device, _stream: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    before, after, share = (torch.from_numpy(each).to(device) for each in interpolate(length, cells))
    return before, after, share


@functools.lru_cache(maxsize=64)
def _source_places(
    source: tuple[int, ...], target: tuple[int, ...], device: torch.device, _stream: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the source row of each row of the target, and the source column of each of its columns."""
    rows, columns = (
        torch.from_numpy(source_indices(*lengths)).to(device) for lengths in zip(source, target, strict=True)
    )
    return rows, columns
