"""Compare an upscaled page with its source, by scores that are cheap to compute.

Both pages are shrunk to half the size of the source, or to a third for an output that is hardly larger. There they
should be equal, except for noise that the network removed, and lines sharper than those of the source count less than
at full size. Both are shrunk by the same filter, because two filters keep the contrast of fine dots differently. Faults
are visible there, in the whole page (swapped, black, tinted, shifted) or in a part of it (a wrong tile). Along the
borders between tiles, the upscaled page itself is examined (``seams.py``).

A run corrects tone and solid areas before it writes a page, which hides some faults of the engine. So a page is
measured twice: as the raw output of the engine (`RawOutput`), and as it is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.gate.reduce import MOST_COPIED, reduce_by
from comic_upscale.gate.seams import worst_seam, worst_step
from comic_upscale.gate.texture import NO_ISLANDS, find_islands
from comic_upscale.imaging.pixels import NO_BORDERS, Borders, DeviceWork, UInt8Array

PART = 2
"""Pages are compared at this fraction (1 / PART) of the source's sides. With a half, an output at 2, 2.5 or 3 times is
reduced by a whole number, which takes a third of the time."""
_FEWEST_PIXELS = 3
"""The fewest pixels of the upscaled page in a compared pixel, along a side. With fewer, dots of one pixel differ: no
output 1.01 times as large can show each of them alike."""
BLOCK = 32
"""Side of the blocks in which parts of a page are compared, in source pixels."""
LARGE = 1_048_576
"""The most pixels of both shrunk pages. It limits the time for a large page."""
_SQUARE = 8
"""Side of the squares in which structural similarity is measured, in shrunk pixels; two of them make a `BLOCK`."""
_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_REACH = 2
"""Shrunk pixels around a solid pixel that must be solid too, because the network redraws the edges of ink."""
_FEWEST_SOLID = 16
"""With fewer solid shrunk pixels, the white or black of a page is not scored."""
_LEAST_TILE = 24
"""A tile with a shorter side, in shrunk pixels, is not scored separately."""
_LEAST_GRADIENT = 9.0
"""The smallest mean squared gradient in its weakest direction, in levels per pixel, with which a shift is scored."""
_MOST_CLEANED = 4.0
"""By how many levels paper may become lighter, as a mean, where a network removes JPEG artifacts. Quality 30 leaves 2.3
(benchmarks/results/denoise-cpu.json)."""
_FILTER_REACH = 2
"""Shrunk pixels around a row that the filter may use."""
_GAP = 3.0
"""Pixels that the filter gets for each shrunk pixel, along a side, after plain means."""
_FAINT = 6
"""The most levels between the channels of a gray pixel, as JPEG leaves them in a gray scan."""
_INK = 245.0
"""Luma below which a pixel is not paper. The tint of paper may be clipped at white."""
_LEAST_INK = 0.005
"""With a smaller share of ink, the tint of the ink is not scored."""
_CALM = 4
"""The most levels of luma between a shrunk pixel and its neighbours if nothing is drawn there."""
_FEWEST_CALM = 200
"""With fewer shrunk pixels that are neither drawing nor paper, their tone is not scored."""

Floats = NDArray[np.float32]
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one page. Levels are 0..255, lengths are in pixels of the source."""

    psnr: float
    """Luma of the shrunk page against the shrunk source, dB; 99 if they are equal."""
    ssim: float
    """Mean structural similarity of luma over squares of 16 source pixels; 1 if they are equal."""
    worst_block: float
    """Root of the mean squared difference of luma in the worst square of `BLOCK` pixels, levels."""
    brightness: float
    """Mean difference over the page and its channels, levels."""
    tint: float
    """Largest deviation of a channel's mean difference from that of all channels, over the page or over everything
    except paper, levels; 0 for gray pages."""
    shift: float
    """Shift of the image, estimated from the differences along its edges."""
    white_drift: float
    """Mean distance from 255 where the source is solid white, levels; 0 without such areas."""
    black_drift: float
    """Mean distance from 0 where the source is solid black, levels; 0 without such areas."""
    chroma: float
    """Mean distance between the channels where the source is almost gray, levels."""
    tile_shift: float
    """``shift`` of the tile in which it is largest; 0 without tiles."""
    seam: float
    """How much the worst border between two tiles stands out from its surroundings, levels; 0 without tiles."""
    contrast: float
    """Standard deviation of luma over that of the source; 1 for a source that is flat itself."""
    contrast_levels: float
    """Standard deviation of the source's luma, levels: a flat source cannot lose its contrast."""
    tile_step: float
    """How much lighter or darker than its neighbour a tile is, levels; 0 without tiles."""
    raw_tint: float
    """``tint`` of the raw output."""
    raw_tone: float
    """Mean difference of a channel in the raw output where nothing is drawn, except on paper, levels; 0 without such
    areas."""
    raw_white: float
    """``white_drift`` of the raw output."""
    raw_black: float
    """``black_drift`` of the raw output."""
    invented: float
    """Blocks with texture that the source does not have (``texture.py``); 0 if not measured."""
    invented_group: float
    """How many of these blocks touch each other, in the largest group."""


@dataclass(frozen=True, slots=True, eq=False)
class RawOutput:
    """Measurements of the raw output of an engine."""

    small: UInt8Array
    """The page, shrunk to the size at which pages are compared."""
    seam: float = 0.0
    """`Scores.seam` of the raw output."""

    @classmethod
    def over(cls, source: UInt8Array, larger: UInt8Array, borders: Borders = NO_BORDERS) -> RawOutput:
        """Measure the raw output for `compare`, before it is corrected.

        Args:
            source: as there.
            larger: as there.
            borders: as there.
        """
        grid = Grid.of(source.shape, larger.shape)
        return cls(shrink(larger, grid), worst_seam(source, larger, borders))


def compare(
    source: UInt8Array,
    larger: UInt8Array,
    borders: Borders = NO_BORDERS,
    raw: RawOutput | None = None,
    *,
    whitens_paper: bool = False,
    looks_for_texture: bool = False,
    device_work: DeviceWork | None = None,
) -> Scores:
    """Score an upscaled page against its source.

    Args:
        source: uint8, height x width x C, C 3 or 1.
        larger: uint8, any larger height x width x the same C.
        borders: the borders between tiles in the upscaled page.
        raw: the raw output of the same page; None if nothing was corrected.
        whitens_paper: whether paper may become a little lighter, without counting for the brightness.
        looks_for_texture: whether to measure invented texture.
        device_work: what a device has measured of the page.
    """
    grid = Grid.of(source.shape, larger.shape)
    ratio = source.shape[0] * grid.used[1] / grid.size[1]
    small_source = shrink(source, grid)
    known, bends = (None, None) if device_work is None else (device_work.small, device_work.bends)
    small = shrink(larger, grid) if known is None else known
    before, after = _luma(small_source), _luma(small)
    difference = after - before
    mean_square = float(np.vdot(difference, difference)) / difference.size
    deviation = float(before.std())
    ink = _Ink.of(before)
    moved = _subtract(small, small_source)
    brightness, tint = _moves(moved, ink)
    if whitens_paper:
        brightness = _brightness_beside_paper(moved, before)
    squares = _Squares.of(before, after)
    borders_there = _borders_at(borders, larger.shape, before.shape)
    tiles = _tiles(borders_there, before.shape)
    seam = worst_seam(source, larger, borders)
    step = worst_step(difference, borders_there)
    islands = find_islands(source, larger, bends) if looks_for_texture else NO_ISLANDS
    if raw is None:
        raw_moved, raw_luma = moved, after
    else:
        raw_moved, raw_luma = _subtract(raw.small, small_source), _luma(raw.small)
        seam = max(seam, raw.seam)
        step = max(step, worst_step(raw_luma - before, borders_there))
    white, black = _find_solid(before, 255), _find_solid(before, 0)
    return Scores(
        psnr=99.0 if mean_square < 1e-5 else float(10 * np.log10(255**2 / mean_square)),
        ssim=squares.similarity(),
        worst_block=squares.worst_difference(max(1, round(BLOCK / ratio / _SQUARE))),
        brightness=brightness,
        tint=tint,
        shift=_shift(before, difference) * ratio,
        white_drift=_drift(white, after, 255),
        black_drift=_drift(black, after, 0),
        chroma=_chroma(small_source, small),
        tile_shift=max((_shift(before[tile], difference[tile]) * ratio for tile in tiles), default=0.0),
        seam=seam,
        contrast=float(after.std()) / deviation if deviation >= 1 else 1.0,
        contrast_levels=deviation,
        tile_step=step,
        raw_tint=_moves(raw_moved, ink)[1],
        raw_tone=_tone(raw_moved, before, source),
        raw_white=_drift(white, raw_luma, 255),
        raw_black=_drift(black, raw_luma, 0),
        invented=islands.blocks,
        invented_group=islands.largest,
    )


@dataclass(frozen=True, slots=True)
class Grid:
    """How a page and its source are shrunk, so that they can be compared."""

    size: tuple[int, int]
    """Width and height of both."""
    used: tuple[float, float]
    """Share of the width and of the height that is compared."""
    is_whole: bool
    """Whether both are reduced by whole numbers. Then plain means are used."""

    @classmethod
    def of(cls, source: tuple[int, ...], larger: tuple[int, ...]) -> Grid:
        """Return the grid for a source and a page of these shapes."""
        height, width = source[:2]
        part = max(PART, math.ceil(_FEWEST_PIXELS * max(height / larger[0], width / larger[1])))
        # An odd last row or column is left out, because half a pixel would move all others.
        columns, rows = _multiple(width, part), _multiple(height, part)
        share = min(1 / part, (LARGE / (rows * columns)) ** 0.5)
        size = max(1, round(columns * share)), max(1, round(rows * share))
        used = columns / width, rows / height
        ratios = [sides[1 - axis] * used[axis] / size[axis] for sides in (source, larger) for axis in (0, 1)]
        return cls(size, used, all(abs(ratio - round(ratio)) < 1e-6 for ratio in ratios))

    def block(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return (width, height) of the pixels of a page of this shape that make one of the grid, if it is whole."""
        return round(shape[1] * self.used[0] / self.size[0]), round(shape[0] * self.used[1] / self.size[1])

    def end(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Return where the part of a page of this shape that is compared ends: (x, y) in its pixels."""
        return shape[1] * self.used[0], shape[0] * self.used[1]

    def is_filtered_at_once(self, shape: tuple[int, ...]) -> bool:
        """Return whether the filter does all of the reduction, and in one piece, for a page of this shape."""
        largest = max(end / length for end, length in zip(self.end(shape), self.size, strict=True))
        return math.prod(shape) <= MOST_COPIED and largest < 2 * _GAP


def _borders_at(borders: Borders, larger: tuple[int, ...], small: tuple[int, ...]) -> Borders:
    """Return the positions of the borders in the shrunk page."""
    rows, columns = (
        tuple(round(place * length / whole) for place in places)
        for places, whole, length in zip((borders.rows, borders.columns), larger, small, strict=False)
    )
    return Borders(rows, columns)


def _tiles(borders: Borders, shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Yield the area of each tile in a page of this shape; nothing for a page in one piece, or for narrow tiles."""
    if borders == NO_BORDERS:
        return
    rows = pairwise((0, *borders.rows, shape[0]))
    columns = pairwise((0, *borders.columns, shape[1]))
    for (top, bottom), (left, right) in product(rows, columns):
        if min(bottom - top, right - left) >= _LEAST_TILE:
            yield slice(top, bottom), slice(left, right)


def _multiple(length: int, of: int) -> int:
    return max(1, length // of * of)


def shrink(pixels: UInt8Array, grid: Grid) -> UInt8Array:
    """Return the used part of a page, from its upper left corner, at the size of the grid."""
    size = grid.size
    if grid.is_whole:
        return reduce_by(pixels, size, grid.block(pixels.shape))
    width, height = grid.end(pixels.shape)
    # A plain mean may do only a part of the reduction: the filter sees its blocks in place of pixels, and too large
    # blocks would take contrast from the page, but not from its source.
    # Pillow copies its input, so a large page is processed in groups of rows.
    rows = size[1] if pixels.size <= MOST_COPIED else max(1, size[1] * MOST_COPIED // (8 * pixels.size))
    ratio = height / size[1]
    small = []
    for first in range(0, size[1], rows):
        last = min(first + rows, size[1])
        above = max(0, math.floor(ratio * (first - _FILTER_REACH) + 1e-6))
        part = pixels[above : math.ceil(ratio * (last + _FILTER_REACH) - 1e-6)]
        image = Image.fromarray(np.ascontiguousarray(part[:, :, 0] if part.shape[2] == 1 else part))
        box = (0.0, ratio * first - above, width, min(ratio * last - above, float(part.shape[0])))
        small.append(
            np.asarray(
                image.resize((size[0], last - first), Image.Resampling.HAMMING, box=box, reducing_gap=_GAP)
            )
        )
    return np.concatenate(small).reshape(size[1], size[0], -1)


def _luma(pixels: UInt8Array) -> Floats:
    if pixels.shape[2] == 1:
        return pixels[:, :, 0].astype(np.float32)
    return np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Squares:
    """Means of luma over squares of `_SQUARE` pixels, and of its products: rows x columns each."""

    before: Floats
    after: Floats
    before_squared: Floats
    after_squared: Floats
    product: Floats

    @classmethod
    def of(cls, before: Floats, after: Floats) -> _Squares:
        """Measure. The rest at the right and bottom edges is added to the last square of each row."""
        pairs = (before, after, before * before, after * after, before * after)
        return cls(*map(_means_of_squares, pairs))

    def similarity(self) -> float:
        """Return SSIM with plain means over squares that do not overlap."""
        square_before = self.before_squared - self.before * self.before
        square_after = self.after_squared - self.after * self.after
        both = self.product - self.before * self.after
        similar = (2 * self.before * self.after + _SSIM_C1) * (2 * both + _SSIM_C2)
        means = self.before * self.before + self.after * self.after + _SSIM_C1
        return float((similar / (means * (square_before + square_after + _SSIM_C2))).mean())

    def worst_difference(self, side: int) -> float:
        """Return the root mean squared difference of the worst block with ``side`` squares a side, levels."""
        difference = self.before_squared + self.after_squared - 2 * self.product
        rows, columns = (max(1, length - side + 1) for length in difference.shape)
        # Blocks start at every square, because a wrong tile is seldom aligned with a grid.
        whole = sum(
            difference[down : down + rows, right : right + columns]
            for down in range(min(side, difference.shape[0]))
            for right in range(min(side, difference.shape[1]))
        )
        count = min(side, difference.shape[0]) * min(side, difference.shape[1])
        return float(np.sqrt(max(0.0, float(np.max(whole))) / count))


def _means_of_squares(plane: Floats) -> Floats:
    """Return means over squares. Rows are summed first, because NumPy adds many of them at a time."""
    sums = _sum_squares(_sum_squares(plane).T).T
    height, width = plane.shape
    heights, widths = (_lengths(length).astype(np.float32) for length in (height, width))
    return sums / (heights[:, None] * widths)


def _sum_squares(plane: Floats) -> Floats:
    """Sum the rows of each square."""
    count = max(1, len(plane) // _SQUARE)
    sums: Floats = plane[: count * _SQUARE].reshape(count, -1, plane.shape[1]).sum(axis=1)
    sums[-1] += plane[count * _SQUARE :].sum(axis=0)
    return sums


def _lengths(length: int) -> NDArray[np.intp]:
    """Return the side of each square along an axis of this length."""
    starts = np.arange(max(1, length // _SQUARE)) * _SQUARE
    return np.diff(starts, append=length)


@dataclass(frozen=True, slots=True)
class _Ink:
    """The pixels of a shrunk source that are not paper."""

    share: float
    weights: Floats
    """Two rows: the weight of each pixel in the mean over the page, and in that over the ink."""

    @classmethod
    def of(cls, luma: Floats) -> _Ink:
        """Find the ink of a shrunk source."""
        ink = (luma < _INK).reshape(-1).astype(np.float32)
        everywhere = np.full(len(ink), 1 / len(ink), np.float32)
        return cls(float(ink.mean()), np.stack((everywhere, ink / max(1.0, float(ink.sum())))))


def _subtract(small: UInt8Array, source: UInt8Array) -> Floats:
    """Return by how many levels each pixel of a shrunk page differs from its source: pixels x channels."""
    return np.subtract(small, source, dtype=np.float32).reshape(-1, source.shape[2])


def _moves(difference: Floats, ink: _Ink) -> tuple[float, float]:
    """Return the change in brightness of the whole page, and the spread of its channels, levels."""
    # One product for both means. NumPy's mean over samples with a stride of three takes ten times as long.
    whole, inked = ink.weights @ difference
    apart = [whole] if ink.share < _LEAST_INK else [whole, inked]
    return abs(float(whole.mean())), max(float(np.abs(each - each.mean()).max()) for each in apart)


def _brightness_beside_paper(difference: Floats, luma: Floats) -> float:
    """Return the change in brightness of the page, without what paper may become lighter."""
    paper = (luma >= _INK).reshape(-1).astype(np.float32)
    on_paper, elsewhere = np.stack((paper, 1 - paper)) @ difference
    cleaned = np.clip(on_paper, 0, _MOST_CLEANED * paper.sum())
    return abs(float((on_paper - cleaned + elsewhere).mean())) / len(paper)


def _tone(difference: Floats, luma: Floats, unshrunk: UInt8Array) -> float:
    """Return the largest mean difference of a channel, over areas that are neither paper nor drawing."""
    levels = luma.astype(np.uint8)
    lowest, highest = levels.copy(), levels.copy()
    for axis in (0, 1):
        _among_neighbours(np.minimum, lowest, axis)
        _among_neighbours(np.maximum, highest, axis)
    calm = (highest - lowest <= _CALM) & (levels < _INK) & (_grain(unshrunk, luma.shape) <= _CALM)
    count = np.count_nonzero(calm)
    if count < _FEWEST_CALM:
        return 0.0
    # One product for the sums. NumPy's sums over samples with a stride of three take ten times as long.
    return float(np.abs(calm.reshape(-1).astype(np.float32) @ difference).max()) / count


def _grain(source: UInt8Array, shape: tuple[int, ...]) -> UInt8Array:
    """Return the spread of the four source pixels of each shrunk pixel. It shows dots that shrinking made flat."""
    height, width, channels = source.shape
    if min(height, width) < PART:
        return np.zeros(shape, np.uint8)
    # Rows first and with all channels: samples that follow each other are compared many at a time.
    samples = source.reshape(height, -1)
    if shape == (height // PART, width // PART):
        upper, lower = samples[: shape[0] * PART : PART], samples[1 : shape[0] * PART : PART]
        highest, lowest = np.maximum(upper, lower), np.minimum(upper, lower)
        first = slice(channels // 2, shape[1] * PART * channels, PART * channels)
        second = slice(first.start + channels, first.stop, first.step)
        spread: UInt8Array = np.maximum(highest[:, first], highest[:, second])
        spread -= np.minimum(lowest[:, first], lowest[:, second])
        return spread
    rows, columns = (
        np.arange(short) * (_multiple(long, PART) // PART) // short * PART
        for short, long in zip(shape, source.shape, strict=False)
    )
    upper, lower = samples[rows], samples[rows + 1]
    middle = columns * channels + channels // 2
    highest, lowest = np.maximum(upper, lower), np.minimum(upper, lower)
    grain: UInt8Array = np.maximum(highest.take(middle, axis=1), highest.take(middle + channels, axis=1))
    grain -= np.minimum(lowest.take(middle, axis=1), lowest.take(middle + channels, axis=1))
    return grain


def _among_neighbours(choose: np.ufunc, plane: UInt8Array, axis: int) -> None:
    """Replace every pixel by the minimum or maximum of itself and its neighbours along an axis."""
    source, chosen = np.moveaxis(plane.copy(), axis, 0), np.moveaxis(plane, axis, 0)
    choose(chosen[1:], source[:-1], out=chosen[1:])
    choose(chosen[:-1], source[1:], out=chosen[:-1])


def _shift(before: Floats, difference: Floats) -> float:
    """Return the shift that best explains the difference: least squares over the gradient (Lucas and Kanade, 1981)."""
    if min(before.shape) < 3:
        return 0.0
    down = (before[2:, 1:-1] - before[:-2, 1:-1]) / 2
    right = (before[1:-1, 2:] - before[1:-1, :-2]) / 2
    inner = difference[1:-1, 1:-1]
    products = np.array(
        [[np.vdot(down, down), np.vdot(down, right)], [np.vdot(down, right), np.vdot(right, right)]],
        dtype=np.float64,
    )
    # Lines in a single direction do not show a shift along it.
    if float(np.linalg.eigvalsh(products)[0]) < _LEAST_GRADIENT * inner.size:
        return 0.0
    toward = np.array([np.vdot(down, inner), np.vdot(right, inner)], dtype=np.float64)
    return float(np.linalg.norm(np.linalg.solve(products, -toward)))


def _find_solid(luma: Floats, level: int) -> Marks | None:
    """Return the pixels of a shrunk source that have this level, as all around them do; None for too few."""
    solid = luma == level
    # Most pages have hardly any pure black. Then its surroundings need no check.
    if np.count_nonzero(solid) < _FEWEST_SOLID:
        return None
    solid = _erode(solid)
    return solid if np.count_nonzero(solid) >= _FEWEST_SOLID else None


def _drift(solid: Marks | None, after: Floats, level: int) -> float:
    return 0.0 if solid is None else abs(float(after[solid].mean()) - level)


def _erode(mask: Marks) -> Marks:
    """Keep the pixels whose neighbours within `_REACH` are also set. Beyond the page, pixels count as set."""
    kept = mask.copy()
    for step in range(1, _REACH + 1):
        kept[:-step] &= mask[step:]
        kept[step:] &= mask[:-step]
    mask, kept = kept, kept.copy()
    for step in range(1, _REACH + 1):
        kept[:, :-step] &= mask[:, step:]
        kept[:, step:] &= mask[:, :-step]
    return kept


def _chroma(source: UInt8Array, small: UInt8Array) -> float:
    if source.shape[2] == 1:
        return 0.0
    before = _spread(source)
    gray = before <= _FAINT
    # On a colour page, the few gray pixels are at edges, where shrinking mixes colours.
    if 2 * np.count_nonzero(gray) < gray.size:
        return 0.0
    after = _spread(small)
    return max(0.0, float(after[gray].mean()) - float(before[gray].mean()))


def _spread(pixels: UInt8Array) -> UInt8Array:
    """Return the levels between the highest and the lowest channel of each pixel."""
    red, green, blue = pixels[:, :, 0], pixels[:, :, 1], pixels[:, :, 2]
    highest = np.maximum(np.maximum(red, green), blue)
    return highest - np.minimum(np.minimum(red, green), blue)
