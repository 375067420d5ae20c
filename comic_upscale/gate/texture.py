"""Find texture that a network invented: dots, checks or worms with hard edges, where the source is quiet.

A network for comics sometimes takes faint noise in flat gray for screentone, and draws it. The eye sees an island of
hard dots that the page does not have. Such detail is finer than the source can hold, so it is gone at the size at
which pages are compared (``scores.py``). It is measured at the size of the output instead:

* Finer than the source can hold: what is left of the output's luma after it is reduced to the size of the source and
  enlarged again.
* A block of the source counts if the root of the mean square of that detail is large, and large beside the contrast
  of the source there. It does not count if it has a drawing or screentone of its own.
* Pixels beside lines and letters are left out, because a line gets sharper there legitimately.
* A block beside screentone that the output keeps does not count, because tone fades out there.

`benchmarks/invented.py` says where the thresholds come from. `find_islands` examines only blocks in which the output
changes fast, which takes a tenth of the time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.imaging.pixels import Bends, UInt8Array

BLOCK = 10
"""Side of a block, in source pixels."""
LEAST_DETAIL = 5.0
"""Levels of detail finer than the source can hold, from which it is seen."""
LEAST_RATIO = 2.0
"""That detail over the contrast of the source, from which it is invented."""
MOST_CONTRAST = 10.0
"""Levels of contrast of the source, up to which a block is quiet."""
LINE = 80
"""Levels between a source pixel and its neighbours, from which it belongs to a line or letter."""
MARGIN = 3
"""Source pixels around a line that are left out."""
LEAST_SHARE = 0.4
"""Share of a block's pixels that must be left."""
TONE = 24
"""Levels between a source pixel and its neighbours, from which it may belong to screentone."""
TONE_SHARE = 0.9
"""Share of a block's pixels that must, for screentone: a line leaves more of its block alone."""
MOST_RATIO_OF_TONE = 2.5
"""The most detail over contrast of screentone that the output keeps."""
_AROUND = 2
"""Source pixels each way of the mean that contrast is measured from."""

_LEAST_CONTRAST = 1.5
"""Levels of contrast of the source, below which no network was seen to invent anything: it needs some noise."""
_LEAST_BEND = 0.9
"""Root of the mean square of the second difference of the output, from which a block is examined: over that of the
faintest detail that counts, were it a wave just too fine for the source. Blocks that counted had 1.2 or more."""
EVERY = 5
"""The distance between the rows, and between the columns, of which second differences are taken, in output pixels."""
_ROWS = 64
_NEIGHBOURS = 2
"""Blocks around the examined ones that are measured with them, so that resampling sees what lies around."""

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
_Sample = TypeVar("_Sample", np.uint8, np.int16)


@dataclass(frozen=True, slots=True)
class Islands:
    """How much invented texture a page has."""

    blocks: int
    """Blocks with invented texture."""
    largest: int
    """Blocks of the largest group that touch each other, at sides or corners."""


NO_ISLANDS = Islands(0, 0)


@dataclass(frozen=True, slots=True)
class QuietBlocks:
    """What the blocks of a source are like; each rows x columns."""

    contrast: Floats
    """Root of the mean square of luma minus the mean around, levels."""
    share: Floats
    """Share of the pixels that are not beside a line."""
    away: Floats
    """1 for each pixel of the source that is not beside a line, otherwise 0."""
    tone: Mask
    """Whether almost all of the block may be screentone."""

    @classmethod
    def of(cls, gray: UInt8Array) -> QuietBlocks:
        """Examine a source.

        Args:
            gray: its luma, height x width.
        """
        steps = _steps(gray)
        away = _away_from_lines(steps).astype(np.float32)
        contrast = np.sqrt(block_means(_squares_of_contrast(gray)))
        tone = block_means((steps >= TONE).astype(np.float32)) >= TONE_SHARE
        return cls(contrast, block_means(away), away, tone)

    @property
    def may_hold_any(self) -> Mask:
        """Which blocks are quiet, and have enough pixels that are not beside lines."""
        quiet: Mask = (self.contrast <= MOST_CONTRAST) & (self.share >= LEAST_SHARE)
        return quiet

    def part(self, rows: slice, columns: slice) -> QuietBlocks:
        """Return a part of the blocks."""
        pixels = tuple(slice(each.start * BLOCK, each.stop * BLOCK) for each in (rows, columns))
        return QuietBlocks(
            self.contrast[rows, columns],
            self.share[rows, columns],
            self.away[pixels],
            self.tone[rows, columns],
        )

    def invented(self, finer: Floats) -> tuple[Mask, Floats]:
        """Return which blocks have invented texture, and the detail of each, levels.

        Args:
            finer: the result of `finer_detail` for these pixels.
        """
        detail = np.sqrt(block_means(finer, self.away))
        found = (detail >= np.maximum(LEAST_DETAIL, LEAST_RATIO * self.contrast)) & self.may_hold_any
        all_detail = np.sqrt(block_means(finer))
        kept_tone = self.tone & (self.contrast >= MOST_CONTRAST)
        kept_tone &= (all_detail >= LEAST_DETAIL) & (all_detail <= MOST_RATIO_OF_TONE * self.contrast)
        return found & ~_grown(kept_tone, 1), detail


def is_large_enough(source: tuple[int, ...]) -> bool:
    """Return whether a source of this shape is searched for invented texture."""
    return min(source[:2]) >= 3 * BLOCK


def find_islands(source: UInt8Array, larger: UInt8Array, bends: Bends | None = None) -> Islands:
    """Measure the invented texture of a page.

    Args:
        source: uint8, height x width x C, C 3 or 1.
        larger: uint8, any larger height x width x the same C.
        bends: of the larger page, by its `BendPlan`, where they are known.
    """
    if not is_large_enough(source.shape):
        return NO_ISLANDS
    gray = _gray(source)
    blocks = QuietBlocks.of(gray)
    wanted = blocks.may_hold_any & (blocks.contrast >= _LEAST_CONTRAST)
    if wanted.any():
        plan = BendPlan.of(source.shape, larger.shape)
        wanted &= plan.is_fast(plan.measure(larger) if bends is None else bends, blocks.contrast)
    found = np.zeros(wanted.shape, bool)
    for rows, columns in _regions(_grown(wanted, _NEIGHBOURS)):
        part = blocks.part(rows, columns)
        output = _part_of(larger, source.shape, rows, columns)
        finer = finer_detail(_gray(output).astype(np.float32), part.away.shape[::-1])
        found[rows, columns] |= part.invented(finer)[0] & wanted[rows, columns]
    return Islands(int(found.sum()), _largest_group(found))


@dataclass(frozen=True, slots=True)
class BendLines:
    """The second differences along some lines of an output, and the blocks that they belong to."""

    across: tuple[int, ...]
    """The first line of each block, and the number of lines; ascending."""
    along: tuple[int, ...]
    """The first second difference of a line in each block, and the number of them; ascending."""

    @classmethod
    def of(cls, shape: tuple[int, int], factors: tuple[float, float], blocks: tuple[int, int]) -> BendLines:
        """Plan lines.

        Args:
            shape: lines, and samples of a line.
            factors: lines, and samples of a line, for each pixel of the source.
            blocks: across the lines, and along them.
        """
        return cls(
            *(
                tuple(min(round(edge * BLOCK * factor), length) for edge in range(count + 1))
                for count, factor, length in zip(blocks, factors, (shape[0], shape[1] - 2), strict=True)
            )
        )

    def measure(self, lines: UInt8Array) -> Floats:
        """Return the mean square of the second difference along the lines, of each block."""
        across, along = np.array(self.across), np.array(self.along)
        levels = lines[: across[-1], : along[-1] + 2].astype(np.int16)
        bends = 2 * levels[:, 1:-1]
        bends -= levels[:, :-2]
        bends -= levels[:, 2:]
        # Whole numbers, so that a device gets the same sums in any order.
        squares = np.multiply(bends, bends, dtype=np.int32)
        sums = np.add.reduceat(squares, along[:-1], axis=1)
        sums = np.add.reduceat(sums, across[:-1], axis=0, dtype=np.int64)
        means: Floats = (sums / np.outer(np.diff(across), np.diff(along))).astype(np.float32)
        return means


@dataclass(frozen=True, slots=True)
class BendPlan:
    """Where the second differences of outputs of one size are taken, and how large they are in invented texture.

    They are those of green, or of gray, in every `EVERY`-th row and column.
    """

    rows: BendLines
    """Of the rows."""
    columns: BendLines
    """Of the columns."""
    of_wave: float
    """The second difference of a wave whose period is two pixels of the source."""

    @classmethod
    def of(cls, source: tuple[int, ...], larger: tuple[int, ...]) -> BendPlan:
        """Plan for a source and an output of these shapes, at least one block each."""
        (height, width), blocks = larger[:2], (source[0] // BLOCK, source[1] // BLOCK)
        down, right = height / source[0], width / source[1]
        return cls(
            BendLines.of((-(-height // EVERY), width), (down / EVERY, right), blocks),
            BendLines.of((-(-width // EVERY), height), (right / EVERY, down), blocks[::-1]),
            2 - 2 * math.cos(math.pi / min(down, right)),
        )

    def measure(self, larger: UInt8Array) -> Bends:
        """Return the second differences of an output."""
        green = larger[:, :, larger.shape[2] // 2]
        return Bends(self.rows.measure(green[::EVERY]), self.columns.measure(green[:, ::EVERY].T))

    def is_fast(self, bends: Bends, contrast: Floats) -> Mask:
        """Return in which blocks an output changes fast enough, along its rows or along its columns.

        Args:
            bends: of the output.
            contrast: of the blocks of the source.
        """
        least = _LEAST_BEND * self.of_wave * np.maximum(LEAST_DETAIL, LEAST_RATIO * contrast)
        fast: Mask = np.maximum(bends.along_rows, bends.along_columns.T) >= np.square(least)
        return fast


def finer_detail(after: Floats, size: tuple[int, int]) -> Floats:
    """Return the square of the detail that an image of this size cannot hold, mean over each of its pixels.

    Args:
        after: luma of the output.
        size: (width, height) of the source.
    """
    reduced = _resized(after, size, Image.Resampling.BICUBIC)
    again = _resized(reduced, (after.shape[1], after.shape[0]), Image.Resampling.BICUBIC)
    return np.maximum(_resized(np.square(after - again), size, Image.Resampling.BOX), 0)


def block_means(plane: Floats, weights: Floats | None = None) -> Floats:
    """Return the weighted mean of each whole block; 0 where the weights are 0."""
    rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK

    def means(values: Floats) -> Floats:
        # Rows first: one sum over both axes takes three times as long.
        whole = values[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns * BLOCK).sum(axis=1)
        mean: Floats = whole.reshape(rows, columns, BLOCK).sum(axis=2) / np.float32(BLOCK**2)
        return mean

    if weights is None:
        return means(plane)
    sums, totals = means(plane * weights), np.maximum(means(weights), np.float32(1e-6))
    weighted: Floats = np.divide(sums, totals, dtype=np.float32)
    return weighted


def _gray(pixels: UInt8Array) -> UInt8Array:
    if pixels.shape[2] == 1:
        return np.ascontiguousarray(pixels[:, :, 0])
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))


def _resized(plane: Floats, size: tuple[int, int], by: Image.Resampling) -> Floats:
    return np.asarray(Image.fromarray(plane).resize(size, by), np.float32)


def _part_of(larger: UInt8Array, source: tuple[int, ...], rows: slice, columns: slice) -> UInt8Array:
    """Return the part of the output that belongs to a part of the blocks."""
    places = [
        slice(*(round(end * BLOCK * large / small) for end in (blocks.start, blocks.stop)))
        for blocks, large, small in zip((rows, columns), larger.shape, source, strict=False)
    ]
    return larger[places[0], places[1]]


def _regions(wanted: Mask) -> Iterator[tuple[slice, slice]]:
    """Yield boxes of blocks that hold all the wanted ones: for each run of rows, its runs of columns."""
    for rows in _runs(np.logical_or.reduce(wanted, axis=1)):
        for columns in _runs(np.logical_or.reduce(wanted[rows], axis=0)):
            yield rows, columns


def _runs(line: NDArray[np.bool_]) -> Iterator[slice]:
    """Yield the runs of true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], line, [False]))))
    yield from (slice(int(first), int(last)) for first, last in edges.reshape(-1, 2))


def _largest_group(found: Mask) -> int:
    """Return the size of the largest group of blocks that touch each other, at sides or corners."""
    left = {(int(row), int(column)) for row, column in np.argwhere(found)}
    largest = 0
    while left:
        group = [left.pop()]
        for row, column in group:
            beside = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= beside
            group += beside
        largest = max(largest, len(group))
    return largest


def _squares_of_contrast(gray: UInt8Array) -> Floats:
    """Return the square of each pixel minus the mean of the square around; the page's edge is repeated."""
    side = 2 * _AROUND + 1
    padded = np.pad(gray, _AROUND, mode="edge")
    squares = np.empty(gray.shape, np.float32)
    # Few rows at a time, so that they stay in the processor's cache.
    for first in range(0, len(gray), _ROWS):
        part = gray[first : first + _ROWS]
        # Sums of 25 samples of 8 bits fit in 16 bits.
        around = padded[first : first + len(part) + 2 * _AROUND].astype(np.int16)
        differences = (part * np.int16(side**2) - _over_windows(np.add, around, side)).astype(np.float32)
        np.multiply(differences, differences * np.float32(side**-4), out=squares[first : first + len(part)])
    return squares


def _steps(gray: UInt8Array) -> UInt8Array:
    """Return the levels between the darkest and the lightest of each pixel and its neighbours."""
    lightest, darkest = _lightest(gray, 1), 255 - _lightest(255 - gray, 1)
    steps: UInt8Array = lightest - darkest
    return steps


def _away_from_lines(steps: UInt8Array) -> Mask:
    """Return which pixels have no line or letter nearby."""
    return ~_grown(steps >= LINE, MARGIN)


def _grown(mask: Mask, by: int) -> Mask:
    """Return these pixels or blocks and those around."""
    return _lightest(mask.view(np.uint8), by).view(np.bool_)


def _lightest(plane: UInt8Array, reach: int) -> UInt8Array:
    """Return the largest value of the square around each pixel."""
    return _over_windows(np.maximum, np.pad(plane, reach), 2 * reach + 1)


def _over_windows(combine: np.ufunc, plane: NDArray[_Sample], side: int) -> NDArray[_Sample]:
    """Return the combination of each square of this side that lies in the plane."""
    height, width = (length - side + 1 for length in plane.shape)
    rows = functools.reduce(combine, [plane[first : first + height] for first in range(side)])
    return functools.reduce(combine, [rows[:, first : first + width] for first in range(side)])
