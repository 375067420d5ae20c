"""Keep white paper pure white and solid black pure black. Networks seldom return exactly these values.

On real pages, flat white comes back as 254 or 253 in places, and the difference shows against a viewer's background.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.extremes import Extremes, channel_extremes
from comic_upscale.imaging.pixels import Pixels, SampleArray, UInt8Array

REACH = 2
"""The source pixels on all sides that must be solid too: closer to ink, the network draws the edge."""

BLACK, WHITE = 1, 2
"""The marks of a `solid_map` for pure black and for pure white."""
_CLEAR, _OPAQUE = 4, 8
_ROWS = 64


def solid_map(
    color: SampleArray, alpha: SampleArray | None = None, extremes: Extremes | None = None
) -> UInt8Array | None:
    """Find pixels that are pure white or black, or fully transparent or opaque, as are the pixels around them.

    Args:
        color: uint8 or uint16, height x width x 3 or 1.
        alpha: of the same type, height x width.
        extremes: of these samples, where they are known.

    Returns:
        uint8, height x width, for `restore_solid`; None if there are no such pixels.
    """
    top = np.iinfo(color.dtype).max
    found = np.zeros(color.shape[:2], np.uint8)
    lowest, highest = extremes or channel_extremes(color)
    marked = [(highest == 0, BLACK), (lowest == top, WHITE)]
    if alpha is not None:
        marked += [(alpha == 0, _CLEAR), (alpha == top, _OPAQUE)]
    for where, mark in marked:
        # A product takes a tenth of the time of setting the marked pixels.
        found |= _erode(where).view(np.uint8) * np.uint8(mark)
    return found if found.any() else None


def restore_solid(page: Pixels) -> Pixels:
    """Set the pixels that the page's map marks to pure white or black, or to fully transparent or opaque.

    Args:
        page: upscaled, with the map of its source. Writable, contiguous arrays are changed in place.
    """
    solid = page.solid
    if solid is None:
        return page
    color = _make_writable(page.color)
    alpha = None if page.alpha is None else _make_writable(page.alpha)
    _put_back(color, solid, BLACK, WHITE)
    if alpha is not None:
        _put_back(alpha[:, :, None], solid, _CLEAR, _OPAQUE)
    return replace(page, color=color, alpha=alpha, solid=None)


def _put_back(samples: SampleArray, solid: UInt8Array, lowest: int, highest: int) -> None:
    """Set samples (height x width x channels, in place) to 0 or to their maximum where the map has these marks."""
    height, width, channels = samples.shape
    top = np.iinfo(samples.dtype).max
    rows, columns = (
        source_indices(solid.shape[0], height),
        np.repeat(source_indices(solid.shape[1], width), channels),
    )
    flat = samples.reshape(height, width * channels)
    for start in range(0, height, _ROWS):
        strip = flat[start : start + _ROWS]
        places = rows[start : start + _ROWS]
        # Widened first, while there are fewer rows.
        marks = solid[places[0] : places[-1] + 1]
        for mark, change, neutral, value in ((highest, np.maximum, 0, top), (lowest, np.minimum, top, 0)):
            marked = marks & mark
            if marked.any():
                bound = np.where(marked, value, neutral).astype(samples.dtype)
                # The indices are within bounds. "clip" saves NumPy the check of each.
                wide = bound.take(columns, axis=1, mode="clip")
                change(strip, wide.take(places - places[0], axis=0, mode="clip"), out=strip)


def source_indices(source: int, target: int) -> NDArray[np.intp]:
    """Return the source pixel that contains the centre of each pixel of the target axis."""
    return ((2 * np.arange(target) + 1) * source // (2 * target)).astype(np.intp)


def _erode(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the marks that have only marks within reach. Pixels beyond the edge of the page count as marked."""
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


def _make_writable(samples: SampleArray) -> SampleArray:
    """Return samples that can be changed, in an order in which reshaping makes no copy."""
    return np.require(samples, requirements=["C", "W"])
