"""Faint lines on white paper, and on solid black: networks take them for noise and leave them out.

At 2x, lines one pixel wide of 245 on white keep none of their ink through comic-compact-x3, those of 240 a tenth to two
thirds; on black it is the same. So the lines are noted before, and what the larger page lacks of them is given back.

Noise is not given back. A faint pixel counts where most of what surrounds it is paper, where it is part of a line, and
where no ink is near: what JPEG and soft brushes leave around ink is as faint. On a page whose paper is clean right
beside the ink, ink may be near.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.imaging.pixels import FaintLines, Pixels, SampleArray, UInt8Array

FAINTEST, STRONGEST = 5, 40
"""Levels of 8 bits by which a faint line differs from its paper. Nobody sees less; of more, a network keeps enough."""

_PAPER = 1
"""Levels by which paper may differ from white: what JPEG leaves of it."""
_AROUND = 3
"""Pixels on all sides of a faint one of which most are paper."""
_LONG = 15
"""Pixels of the shortest line."""
_STEPS = (-7, 7, -4, 4, -6, 6, -2, 2, -5, 5, -3, 3, -1, 1)
"""Pixels of a line on both sides of its middle. Those far apart come first: they rule most places out."""
_SLOPES = (0, 0.25, -0.25, 0.5, -0.5, 0.75, -0.75, 1, -1)
"""Directions in which lines are looked for: pixels down for each one to the right, and with the sides exchanged."""
_NEAR, _FAR = 2, 9
"""Pixels from ink within which nothing counts: on a page whose paper is clean beside the ink, and on any other."""
_CLEAN = 0.15
"""Part of the pixels between these that may be no paper where that is clean: a faint line runs there, too."""
_TILE = 192
_ROUNDS = 4
"""Times that what is given back is measured and set right."""
_ROWS, _MARGIN = 256, 4
"""Rows of the source that are worked on at once, and those beyond that the filter reaches."""

Marks = NDArray[np.bool_]


def find_faint_lines(color: SampleArray) -> FaintLines | None:
    """Find the faint lines of a page.

    Args:
        color: uint8 or uint16, height x width x 3 or 1.

    Returns:
        What `restore_faint_lines` needs; None where there are none.
    """
    levels = (color if color.dtype == np.uint8 else color >> 8).astype(np.uint8, copy=False)
    on_white, on_black = _places(levels, on_white=True), _places(levels, on_white=False)
    if not len(on_white) and not len(on_black):
        return None
    places = np.union1d(on_white, on_black)
    samples = color.reshape(-1, color.shape[2])[places]
    return FaintLines((color.shape[0], color.shape[1]), places, samples, np.isin(places, on_white))


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """What was seen in a part of a page and in a margin around it."""

    top: int
    left: int
    shape: tuple[int, int]
    """Rows and columns, margin and all."""
    inner: tuple[slice, slice]
    """The part without its margin."""
    faint: NDArray[np.intp]
    """Places that lie on paper, and not right beside ink, counted along the rows."""
    far: Marks
    """Of each of these, whether it lies within `_FAR` of ink."""
    beside: int
    """Pixels that lie between `_NEAR` and `_FAR` of ink."""
    dirty: int
    """Of these, those that are not paper."""


def _places(levels: UInt8Array, *, on_white: bool) -> NDArray[np.int64]:
    """Return where the faint lines of a page are on white, or on black."""
    height, width = levels.shape[:2]
    corners = [(top, left) for top in range(0, height, _TILE) for left in range(0, width, _TILE)]
    looked_at = (_look(levels, top, left, on_white) for top, left in corners)
    tiles = [tile for tile in looked_at if tile is not None]
    is_clean = sum(tile.dirty for tile in tiles) <= _CLEAN * sum(tile.beside for tile in tiles)
    found = [np.empty(0, np.int64)]
    for tile in tiles:
        faint = tile.faint if is_clean else tile.faint[~tile.far]
        if len(faint) >= _LONG:
            marks = np.zeros(tile.shape, np.bool_)
            marks.reshape(-1)[faint] = True
            rows, columns = np.nonzero(_lines(marks)[tile.inner])
            found.append((rows + tile.top) * width + columns + tile.left)
    return np.sort(np.concatenate(found))


def _look(levels: UInt8Array, top: int, left: int, on_white: bool) -> _Tile | None:
    """Look at a part of a page; None where nothing faint lies on paper there, as in most parts of most pages."""
    inside = _ink(levels[top : top + _TILE, left : left + _TILE], on_white)
    if not ((inside >= FAINTEST) & (inside <= STRONGEST)).any() or inside.min() > _PAPER:
        return None
    above, before = max(0, top - _FAR), max(0, left - _FAR)
    around = _ink(levels[above : top + _TILE + _FAR, before : left + _TILE + _FAR], on_white)
    strong, paper = around > STRONGEST, around <= _PAPER
    near = _grown(strong, _NEAR)
    faint = (around >= FAINTEST) & (around <= STRONGEST) & ~near
    if np.count_nonzero(faint) < _LONG:
        return None
    faint &= _most_around(paper)
    if np.count_nonzero(faint) < _LONG:
        return None
    far = _grown(near, _FAR - _NEAR)
    between = far & ~near
    inner = slice(top - above, top - above + _TILE), slice(left - before, left - before + _TILE)
    places = np.flatnonzero(faint)
    beside, dirty = int(np.count_nonzero(between)), int(np.count_nonzero(between & ~paper))
    shape = (faint.shape[0], faint.shape[1])
    return _Tile(top, left, shape, inner, places, far.reshape(-1)[places], beside, dirty)


def _ink(levels: UInt8Array, on_white: bool) -> UInt8Array:
    """Return by how much each pixel differs from white, or black, in the channel where it does most."""
    channels = [levels[:, :, channel] for channel in range(levels.shape[2])]
    return ~functools.reduce(np.minimum, channels) if on_white else functools.reduce(np.maximum, channels)


def _most_around(marks: Marks) -> Marks:
    """Mark where most of what lies around is marked; beyond the edge all counts as marked."""
    side = 2 * _AROUND + 1
    sums = np.pad(marks, _AROUND, constant_values=True).astype(np.uint8)
    for _ in (0, 1):
        length = len(sums) - side + 1
        sums = functools.reduce(np.add, [sums[step : step + length] for step in range(side)]).T
    return sums > side**2 // 2


def _grown(marks: Marks, reach: int) -> Marks:
    """Mark what lies within reach of a mark, in a square."""
    for _ in (0, 1):
        reached = 0
        while reached < reach:
            step = min(2 * reached + 1, reach - reached)
            found = marks.copy()
            found[step:] |= marks[:-step]
            found[:-step] |= marks[step:]
            marks = found
            reached += step
        marks = np.ascontiguousarray(marks.T)
    return marks


def _lines(marks: Marks) -> Marks:
    """Keep what is part of a line: `_LONG` marks side by side, each at most one pixel off a straight one."""
    kept = _flat_lines(marks)
    kept |= _flat_lines(marks.T).T
    return kept


def _flat_lines(marks: Marks) -> Marks:
    """Keep the lines that run at 45 degrees or less to a row."""
    plain = np.pad(marks, _LONG)
    width = plain.shape[1]
    # Up and down alone: a gap in a line is not closed, or every grain would be part of one.
    thick = plain.copy()
    thick[1:-1] |= plain[:-2] | plain[2:]
    flat = thick.reshape(-1)
    middles = np.flatnonzero(plain)
    kept = np.zeros_like(flat)
    for slope in _SLOPES:
        offsets = [step + width * round(step * slope) for step in _STEPS]
        found = middles
        for offset in offsets:
            found = found[flat[found + offset]]
        for offset in offsets:
            kept[found + offset] = True
    return kept.reshape(thick.shape)[_LONG:-_LONG, _LONG:-_LONG] & marks


def restore_faint_lines(page: Pixels) -> Pixels:
    """Give back what an upscaled page lacks of its source's faint lines.

    Args:
        page: upscaled, with the lines of its source; its colour is changed in place where it can be.
    """
    lines = page.faint
    if lines is None:
        return page
    color = page.color if page.color.flags.writeable else page.color.copy()
    for start in range(0, lines.shape[0], _ROWS):
        first, last = np.searchsorted(
            lines.places, [start * lines.shape[1], (start + _ROWS) * lines.shape[1]]
        )
        if first < last:
            _restore_strip(color, lines, slice(int(first), int(last)), start)
    return replace(page, color=color, faint=None)


def _restore_strip(color: SampleArray, lines: FaintLines, which: slice, start: int) -> None:
    """Give back the lines of `_ROWS` rows of the source from ``start`` on."""
    height, width = lines.shape
    end = min(start + _ROWS, height)
    top, bottom = max(0, start - _MARGIN), min(height, end + _MARGIN)
    scale = color.shape[0] / height
    # Whole rows of the larger page: with the margin, so that what is given back is whole, too.
    rows = slice(math.ceil(top * scale), math.floor(bottom * scale))
    strip = color[rows]
    size = (color.shape[1], len(strip))
    to_larger = (0.0, max(0.0, rows.start / scale - top), width, min(rows.stop / scale - top, bottom - top))
    to_source = (0.0, start * scale - rows.start, color.shape[1], min(end * scale, rows.stop) - rows.start)
    places = lines.places[which] - start * width
    plane = np.zeros((bottom - top, width), np.float32)
    marked = plane.reshape(-1)[(start - top) * width :]

    def shrink(larger: NDArray[Any]) -> NDArray[np.float32]:
        small = _resized(larger, (width, end - start), Image.Resampling.BOX, to_source)
        return small.reshape(-1)[places]

    for channel in range(color.shape[2]):
        lack = lines.samples[which, channel] - shrink(strip[:, :, channel])
        for is_theirs, least, most in (
            (lines.is_dark[which], -np.inf, 0.0),
            (~lines.is_dark[which], 0.0, np.inf),
        ):
            wanted = np.where(is_theirs, lack, 0).clip(least, most)
            if not wanted.any():
                continue
            given = wanted
            for _ in range(_ROUNDS):
                marked[places] = given
                # The filter's own bright edges beside a dark line would be none of the source's.
                larger = _resized(plane, size, Image.Resampling.BICUBIC, to_larger).clip(least, most)
                given = (given + wanted - shrink(larger)).clip(least, most)
            larger += strip[:, :, channel]
            strip[:, :, channel] = np.rint(larger).clip(0, np.iinfo(color.dtype).max)


def _resized(
    plane: NDArray[Any],
    size: tuple[int, int],
    filter: Image.Resampling,
    box: tuple[float, float, float, float],
) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize(size, filter, box))
