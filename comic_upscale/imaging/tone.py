"""A page stays as light as it was: what a network adds or takes in broad areas is given back.

Networks draw lines well and lose track of the average, screentone and faint pencil above all.
realesr-animevideov3 moves the average of 112 x 112 pixels of screened manga by -2.3 levels, of a pencil drawing by
+4.8, of a dark watercolour by -1.6; comic-compact-x3 moves a whole page of newsprint by 1.6, one of screentone by 0.4
and one in flat colours by 0.3 (``benchmarks/pixels.py``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.pixels import Pixels, SampleArray

CELL = 32
"""Pixels of the source a side over which the average is kept: far coarser than anything drawn with a line."""
ENOUGH = 0.25
"""Grey levels by which the average of a whole page may move before anything is done."""

_ROUNDS = 2
_ROWS = 64


def tone_map(color: SampleArray) -> NDArray[np.float32]:
    """Return the average of every cell of a page, as `restore_tone` wants it: rows x columns x channels."""
    height, width = color.shape[:2]
    return _averages(color, -(-height // CELL), -(-width // CELL))


def restore_tone(page: Pixels) -> Pixels:
    """Bring the averages of an upscaled page back to those of its source, where they have moved.

    The difference is spread smoothly, so that it adds no edge and takes none away.

    Args:
        page: upscaled, with the averages of its source; its colour is changed in place where it can be.
    """
    tone = page.tone
    if tone is None:
        return page
    color = page.color
    unit = np.iinfo(color.dtype).max / 255
    for _ in range(_ROUNDS):
        # Cut at white and black, a first round may not get all the way.
        difference = tone - _averages(color, *tone.shape[:2])
        if np.abs(difference.mean(axis=(0, 1))).max() <= ENOUGH * unit:
            break
        color = color if color.flags.writeable else color.copy()
        _add(color, difference)
    return replace(page, color=color, tone=None)


def _averages(color: SampleArray, rows: int, columns: int) -> NDArray[np.float32]:
    height, width, channels = color.shape
    result = np.empty((rows, columns, channels), np.float32)
    starts = np.arange(columns) * width // columns
    lengths = np.diff(starts, append=width)[:, None]
    for row in range(rows):
        strip = color[row * height // rows : (row + 1) * height // rows]
        sums = np.add.reduceat(strip.sum(axis=0, dtype=np.float64), starts, axis=0)
        result[row] = sums / (lengths * len(strip))
    return result


def _add(color: SampleArray, difference: NDArray[np.float32]) -> None:
    """Add the difference of every cell, from cell to cell in straight lines, a strip of rows at a time."""
    height, width = color.shape[:2]
    before, after, share = _between(width, difference.shape[1])
    wide = difference[:, before] * (1 - share)[:, None] + difference[:, after] * share[:, None]
    before, after, share = _between(height, difference.shape[0])
    top = np.iinfo(color.dtype).max
    for start in range(0, height, _ROWS):
        strip = slice(start, min(start + _ROWS, height))
        weight = share[strip, None, None]
        field = wide[before[strip]] * (1 - weight) + wide[after[strip]] * weight
        field += color[strip]
        np.rint(field.clip(0, top, out=field), out=field)
        color[strip] = field


def _between(length: int, cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return for each pixel of an axis the cells whose middles lie before and after it, and the latter's share."""
    place = ((np.arange(length) + 0.5) * cells / length - 0.5).clip(0, cells - 1)
    before = np.minimum(place.astype(np.intp), max(cells - 2, 0))
    return before, np.minimum(before + 1, cells - 1), (place - before).astype(np.float32)
