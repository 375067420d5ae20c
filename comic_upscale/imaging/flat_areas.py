"""White paper stays white, and solid black black: what a network makes of them is seldom exactly that.

On real pages flat white comes back as 254 or 253 here and there, and a viewer's background shows the difference.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.extremes import Extremes, channel_extremes
from comic_upscale.imaging.pixels import Pixels, SampleArray, UInt8Array

REACH = 2
"""Pixels of the source on all sides that must be solid too: nearer to ink the network draws the edge."""

_BLACK, _WHITE, _CLEAR, _OPAQUE = 1, 2, 4, 8
_ROWS = 256


def solid_map(
    color: SampleArray, alpha: SampleArray | None = None, extremes: Extremes | None = None
) -> UInt8Array | None:
    """Find where a page is pure white or black, and wholly clear or opaque, with its surroundings.

    Args:
        color: uint8 or uint16, height x width x 3 or 1.
        alpha: of the same type, height x width.
        extremes: of these samples, where they are known.

    Returns:
        uint8, height x width, for `restore_solid`; None where there is no such place.
    """
    top = np.iinfo(color.dtype).max
    found = np.zeros(color.shape[:2], np.uint8)
    lowest, highest = extremes or channel_extremes(color)
    found[_inner(highest == 0)] |= _BLACK
    found[_inner(lowest == top)] |= _WHITE
    if alpha is not None:
        for value, mark in ((0, _CLEAR), (top, _OPAQUE)):
            found[_inner(alpha == value)] |= mark
    return found if found.any() else None


def restore_solid(page: Pixels) -> Pixels:
    """Put pure white, black, clear and opaque back where the page's map says so.

    Args:
        page: upscaled, with the map of its source; the arrays are changed in place where they can be.
    """
    solid = page.solid
    if solid is None:
        return page
    color = _writable(page.color)
    alpha = None if page.alpha is None else _writable(page.alpha)
    _put_back(color, solid, _BLACK, _WHITE)
    if alpha is not None:
        _put_back(alpha[:, :, None], solid, _CLEAR, _OPAQUE)
    return replace(page, color=color, alpha=alpha, solid=None)


def _put_back(samples: SampleArray, solid: UInt8Array, lowest: int, highest: int) -> None:
    """Set samples (height x width x channels, in place) to 0 and to their top where the map has these marks."""
    height, width, channels = samples.shape
    top = np.iinfo(samples.dtype).max
    rows, columns = _places(solid.shape[0], height), np.repeat(_places(solid.shape[1], width), channels)
    flat = samples.reshape(height, width * channels)
    for start in range(0, height, _ROWS):
        strip = flat[start : start + _ROWS]
        places = rows[start : start + _ROWS]
        # Widened before its rows are repeated: there are fewer of them.
        marks = solid[places[0] : places[-1] + 1]
        again = places - places[0]
        for mark, change, neutral, value in ((highest, np.maximum, 0, top), (lowest, np.minimum, top, 0)):
            marked = marks & mark
            if marked.any():
                bound = np.where(marked, value, neutral).astype(samples.dtype)
                change(strip, bound[:, columns][again], out=strip)


def _places(source: int, target: int) -> NDArray[np.intp]:
    """Return for each pixel of the target axis the one of the source in which its middle lies."""
    return ((2 * np.arange(target) + 1) * source // (2 * target)).astype(np.intp)


def _inner(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where a mark has only marks within reach; beyond the edge of the page all counts as marked."""
    for axis in (0, 1):
        if not where.any():
            return where
        around = where.copy()
        along = np.moveaxis(around, axis, 0)
        source = np.moveaxis(where, axis, 0)
        for step in range(1, REACH + 1):
            along[step:] &= source[:-step]
            along[:-step] &= source[step:]
        where = around
    return where


def _writable(samples: SampleArray) -> SampleArray:
    return samples if samples.flags.writeable else samples.copy()
