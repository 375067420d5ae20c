"""Faint lines on white paper, and on solid black: networks take them for noise and leave them out.

At 2x, lines one pixel wide of 245 on white keep none of their ink through comic-compact-x3, those of 240 a tenth to two
thirds; on black it is the same. So the lines are found in the source. What the larger page lacks of them is added.

Noise is not restored. A faint pixel counts if most of its surroundings are paper, if it is part of a line, and if no
ink is near: JPEG and soft brushes leave equally faint pixels around ink. On a page whose paper is clean right beside
the ink, ink may be near.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.extremes import Extremes, channel_extremes
from comic_upscale.imaging.gray import high_bytes
from comic_upscale.imaging.pixels import FaintLines, Pixels, SampleArray, UInt8Array

FAINTEST, STRONGEST = 5, 40
"""Levels of 8 bits by which a faint line differs from its paper. Nobody sees less; of more, a network keeps enough."""

_PAPER = 1
"""Levels by which paper may differ from white, which JPEG adds."""
_AROUND = 3
"""Pixels on all sides of a faint pixel, most of which must be paper."""
_LONG = 15
"""Pixels of the shortest line."""
_STEPS = (-7, 7, -4, 4, -6, 6, -2, 2, -5, 5, -3, 3, -1, 1)
"""Pixels of a line on both sides of its middle. Distant ones come first, because they rule most places out."""
_SLOPES = (0, 0.25, -0.25, 0.5, -0.5, 0.75, -0.75, 1, -1)
"""Directions of lines: pixels down for each pixel to the right, and the same with the axes exchanged."""
_NEAR, _FAR = 2, 9
"""Pixels from ink within which nothing counts: on a page whose paper is clean beside the ink, and on other pages."""
_CLEAN = 0.15
"""Largest share of the pixels between these distances that may not be paper on a clean page: faint lines run there."""
_EDGE = 16
"""Pixels of paper that are added around a page, more than any reach along a row."""
_STRIP, _MORE = 256, 24
"""Rows that are searched at once, and the rows on either side that decide about them."""
_ROWS = 64
"""Rows of the source in which lines are restored at once."""
_MOST = 1.25
"""The most ink that a pixel may get for each level that it lacks."""
_LEAST = 0.5
"""Levels of 8 bits by which a pixel must lack ink to get any."""

Marks = NDArray[np.bool_]
Places = NDArray[np.int64]
Floats = NDArray[np.float32]


def find_faint_lines(color: SampleArray, extremes: Extremes | None = None) -> FaintLines | None:
    """Find the faint lines of a page.

    Args:
        color: uint8 or uint16, height x width x 3 or 1.
        extremes: of these samples, where they are known.

    Returns:
        What `restore_faint_lines` needs; None where there are none.
    """
    lowest, highest = (high_bytes(plane) for plane in extremes or channel_extremes(color))
    on_white, on_black = _find(lowest, on_white=True), _find(highest, on_white=False)
    if not len(on_white) and not len(on_black):
        return None
    places = np.union1d(on_white, on_black)
    samples = color.reshape(-1, color.shape[2])[places]
    return FaintLines((color.shape[0], color.shape[1]), places, samples, np.isin(places, on_white))


@dataclass(frozen=True, slots=True, eq=False)
class _Strip:
    """The faint pixels of some rows of a page, with `_MORE` rows on either side and `_EDGE` pixels of paper around."""

    rows: slice
    """The rows of the page that this is about."""
    above: int
    """The row of the page at which the rows begin, with those on either side."""
    shape: tuple[int, int]
    """With everything around."""
    faint: Places
    """Faint pixels on paper that are not right beside ink, counted along the rows of ``shape``."""
    far: Marks
    """Whether each of these is within `_FAR` of ink."""
    beside: int
    """Pixels between `_NEAR` and `_FAR` of ink."""
    dirty: int
    """The pixels of these that are not paper."""

    def on_page(self, found: Places, width: int) -> Places:
        """Return pixels of this strip, without the rows on either side, counted along the rows of the page."""
        rows, columns = np.divmod(found, self.shape[1])
        rows += self.above - _EDGE
        columns -= _EDGE
        inside = (rows >= self.rows.start) & (rows < self.rows.stop)
        places: Places = (rows * width + columns)[inside]
        return places


def _find(plane: UInt8Array, *, on_white: bool) -> Places:
    """Return the pixels of faint lines on white or on black, counted along the rows.

    Args:
        plane: the lowest channel of each pixel, for lines on white; the highest channel, for lines on black.
        on_white: which.
    """
    height, width = plane.shape
    starts = range(0, height, _STRIP)
    strips = [each for start in starts if (each := _search(plane, start, on_white)) is not None]
    is_clean = sum(each.dirty for each in strips) <= _CLEAN * sum(each.beside for each in strips)
    found = [np.empty(0, np.int64)]
    for each in strips:
        faint = each.faint if is_clean else each.faint[~each.far]
        if len(faint) >= _LONG:
            found.append(each.on_page(_keep_lines(faint, each.shape), width))
    return np.concatenate(found)


def _search(plane: UInt8Array, start: int, on_white: bool) -> _Strip | None:
    """Search rows for faint pixels on paper; None if there are too few, as in most rows of most pages."""
    height, width = plane.shape
    rows = slice(start, min(start + _STRIP, height))
    above, below = max(0, start - _MORE), min(rows.stop + _MORE, height)
    # Everything below goes over all rows in one piece, so pixels beyond the page must not be taken for ink.
    ink = np.zeros((below - above + 2 * _EDGE, width + 2 * _EDGE), np.uint8)
    inner = ink[_EDGE:-_EDGE, _EDGE:-_EDGE]
    inner[:] = plane[above:below]
    if on_white:
        np.invert(inner, out=inner)
    stride, flat = ink.shape[1], ink.reshape(-1)
    # Differences wrap around, so one comparison finds both ends.
    faint = flat - np.uint8(FAINTEST) <= STRONGEST - FAINTEST
    paper = flat <= _PAPER
    if np.count_nonzero(faint) < _LONG or np.count_nonzero(paper) <= ink.size - inner.size:
        return None
    near = _grow(flat > STRONGEST, stride, _NEAR)
    faint &= ~near
    if np.count_nonzero(faint) < _LONG:
        return None
    faint &= _count_around(paper, stride) > (2 * _AROUND + 1) ** 2 // 2
    if np.count_nonzero(faint) < _LONG:
        return None
    far = _grow(near, stride, _FAR - _NEAR)
    between = far & ~near
    places = np.flatnonzero(faint)
    beside, dirty = int(np.count_nonzero(between)), int(np.count_nonzero(between & ~paper))
    return _Strip(rows, above, (len(ink), stride), places, far[places], beside, dirty)


def _count_around(marks: Marks, stride: int) -> UInt8Array:
    """Count the marks within `_AROUND` pixels of each pixel, in a square."""
    counts = marks.view(np.uint8)
    for along in (1, stride):
        sums = counts.copy()
        for step in range(along, _AROUND * along + 1, along):
            sums[step:] += counts[:-step]
            sums[:-step] += counts[step:]
        counts = sums
    return counts


def _grow(marks: Marks, stride: int, reach: int) -> Marks:
    """Mark everything within reach of a mark, in a square. Rows of ``stride`` pixels follow each other."""
    for along in (1, stride):
        reached = 0
        while reached < reach:
            step = min(2 * reached + 1, reach - reached) * along
            grown = marks.copy()
            grown[step:] |= marks[:-step]
            grown[:-step] |= marks[step:]
            marks = grown
            reached += step // along
    return marks


def _keep_lines(faint: Places, shape: tuple[int, int]) -> Places:
    """Return the pixels that are part of a line: `_LONG` pixels in a row, each at most one pixel off a straight one."""
    stride = shape[1]
    plain = np.zeros(shape[0] * stride, np.bool_)
    plain[faint] = True
    kept = np.zeros_like(plain)
    for along, across in ((1, stride), (stride, 1)):
        # Thicker across the line only. Thicker along it, gaps would close, and every grain would be part of a line.
        thick = _grown_along(plain, across)
        line = np.zeros_like(plain)
        for slope in _SLOPES:
            offsets = [step * along + round(step * slope) * across for step in _STEPS]
            found = faint
            for offset in offsets:
                found = found[thick[found + offset]]
                if not len(found):
                    break
            else:
                for offset in (0, *offsets):
                    line[found + offset] = True
        kept |= _grown_along(line, across)
    return np.flatnonzero(kept & plain)


def _grown_along(marks: Marks, step: int) -> Marks:
    grown = marks.copy()
    grown[step:] |= marks[:-step]
    grown[:-step] |= marks[step:]
    return grown


def restore_faint_lines(page: Pixels) -> Pixels:
    """Add to an upscaled page what it lacks of its source's faint lines.

    Args:
        page: upscaled, with the lines of its source; its colour is changed in place where possible.
    """
    lines = page.faint
    if lines is None:
        return page
    color = np.require(page.color, requirements=["C", "W"])
    height, width = lines.shape
    for start in range(0, height, _ROWS):
        first, last = np.searchsorted(lines.places, [start * width, (start + _ROWS) * width])
        if first < last:
            _restore(color, lines, slice(int(first), int(last)))
    return replace(page, color=color, faint=None)


def _restore(color: SampleArray, lines: FaintLines, which: slice) -> None:
    """Restore lines in a few rows of a page, in place."""
    top = np.iinfo(color.dtype).max
    rows, columns = np.divmod(lines.places[which], lines.shape[1])
    area = _Footprint.of_area(rows, columns, lines.shape, color.shape)
    lack = lines.samples[which] - area.average(color)
    lack = np.where(lines.is_dark[which, None], np.minimum(lack, 0), np.maximum(lack, 0))
    lacking = np.abs(lack).max(axis=1) >= _LEAST * top / 255
    if not lacking.any():
        return
    wanted = lack[lacking]
    area, drawn = (
        area.some(lacking),
        _Footprint.of_dot(rows[lacking], columns[lacking], lines.shape, color.shape),
    )
    # Only the rows that change.
    span = slice(int(drawn.rows.min()), int(drawn.rows.max()) + 1)
    span = slice(min(span.start, int(area.rows.min())), max(span.stop, int(area.rows.max()) + 1))
    area, drawn = area.moved(-span.start), drawn.moved(-span.start)
    shape = (span.stop - span.start, *color.shape[1:])
    response = area.average(drawn.draw(wanted, shape))
    # A dot also reaches beyond its own pixel, and gets some of its neighbours' ink. Both have one sign.
    ratio = np.divide(wanted, response, out=np.ones_like(wanted), where=np.abs(response) > 1e-3)
    ink = drawn.draw(wanted * ratio.clip(0, _MOST), shape).reshape(-1)
    flat = color[span].reshape(-1)
    changed = np.flatnonzero(ink)
    flat[changed] = np.rint(flat[changed] + ink[changed]).clip(0, top)


@dataclass(frozen=True, slots=True, eq=False)
class _Footprint:
    """The pixels of a larger page that belong to each of some pixels of its source, with their weights."""

    rows: NDArray[np.int64]
    """Steps x pixels of the source."""
    row_weights: Floats
    """Of the same shape; 0 beyond the page."""
    columns: NDArray[np.int64]
    column_weights: Floats

    @classmethod
    def of_area(
        cls, rows: Places, columns: Places, source: tuple[int, int], larger: tuple[int, ...]
    ) -> _Footprint:
        """Return the area of each pixel; its weights sum up to 1."""
        return cls(*_areas(rows, source[0], larger[0]), *_areas(columns, source[1], larger[1]))

    @classmethod
    def of_dot(
        cls, rows: Places, columns: Places, source: tuple[int, int], larger: tuple[int, ...]
    ) -> _Footprint:
        """Return a soft dot at each pixel. The dots of adjacent pixels add up to an even area."""
        return cls(*_dots(rows, source[0], larger[0]), *_dots(columns, source[1], larger[1]))

    def some(self, which: Marks) -> _Footprint:
        """Return that of some of the pixels."""
        return _Footprint(
            self.rows[:, which],
            self.row_weights[:, which],
            self.columns[:, which],
            self.column_weights[:, which],
        )

    def moved(self, rows: int) -> _Footprint:
        """Return the same footprint, this many rows further down."""
        return replace(self, rows=self.rows + rows)

    def average(self, larger: NDArray[Any]) -> Floats:
        """Return the weighted sum over the pixels of a page: pixels of the source x channels."""
        flat = larger.reshape(-1, larger.shape[2])
        result = np.zeros((self.rows.shape[1], larger.shape[2]), np.float32)
        for place, weight in self._steps(larger.shape[1]):
            result += flat[place] * weight[:, None]
        return result

    def draw(self, levels: Floats, shape: tuple[int, ...]) -> Floats:
        """Draw pixels of the source (pixels x channels) onto an empty page of this shape."""
        result = np.zeros(shape, np.float32)
        flat = result.reshape(-1, shape[2])
        for place, weight in self._steps(shape[1]):
            # At one step, no two pixels of the source have the same place, because the page is larger.
            flat[place] += levels * weight[:, None]
        return result

    def _steps(self, width: int) -> Iterator[tuple[Places, Floats]]:
        for row, row_weight in zip(self.rows, self.row_weights, strict=True):
            for column, column_weight in zip(self.columns, self.column_weights, strict=True):
                yield row * width + column, row_weight * column_weight


def _areas(places: Places, source: int, larger: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the places on the larger axis that each place on the axis of the source covers, and its share of each."""
    scale = larger / source
    first, last = places * scale, (places + 1) * scale
    found = np.floor(first + 1e-9).astype(np.int64) + np.arange(math.ceil(scale) + 1)[:, None]
    weights = (np.minimum(last, found + 1) - np.maximum(first, found)).clip(0) / scale
    return found.clip(0, larger - 1), weights.astype(np.float32)


def _dots(places: Places, source: int, larger: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the places on the larger axis that are within one pixel of each place of the source, and the weights."""
    scale = larger / source
    found = (
        np.ceil((places - 0.5) * scale - 0.5).astype(np.int64) + np.arange(math.ceil(2 * scale) + 1)[:, None]
    )
    away = np.abs((found + 0.5) / scale - 0.5 - places).clip(0, 1)
    # The cubic with a level top and level ends: sharper than straight slopes, and without an edge of its own.
    weights = np.where((found >= 0) & (found < larger), 1 - away * away * (3 - 2 * away), 0)
    return found.clip(0, larger - 1), weights.astype(np.float32)
