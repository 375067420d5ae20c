"""Keep the brightness of broad areas.

Networks draw lines well but shift averages, above all those of screentone and faint pencil. For 112 x 112 pixels,
realesr-animevideov3 shifts the average of screened manga by -2.3 levels, of a pencil drawing by +4.8, and of a dark
watercolour by -1.6. comic-compact-x3 shifts whole pages: newsprint by 1.6 levels, screentone by 0.4, flat colours by
0.3 (``benchmarks/pixels.py``).
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.pixels import Pixels, SampleArray

CELL = 32
"""The side of a cell whose average is kept, in source pixels. It is far coarser than any drawn line."""
ENOUGH = 0.25
"""The average of a page is corrected only if it moved by more than this, in grey levels."""

_ROUNDS = 2
_UNCHANGED = 0.49
"""A sample that moves by at most this is rounded back to its value."""
_ROWS = 16


def tone_map(color: SampleArray) -> NDArray[np.float32]:
    """Return the average of every cell of a page for `restore_tone`: rows x columns x channels."""
    height, width = color.shape[:2]
    return _average_cells(color, -(-height // CELL), -(-width // CELL))


def restore_tone(page: Pixels) -> Pixels:
    """Restore the averages of an upscaled page to those of its source.

    The difference is spread smoothly, so it neither adds nor removes edges. If the page ``keeps_white``, pure white is
    not made darker: the average of the source would bring back, evenly, the dirt that the network has removed.

    Args:
        page: upscaled, with the averages of its source. A writable, contiguous ``color`` is changed in place.
    """
    tone = page.tone
    if tone is None:
        return page
    color = page.color
    unit = np.iinfo(color.dtype).max / 255
    white = _find_white(color) if page.keeps_white else None
    others: NDArray[np.float32] | float = 1.0
    if white is not None:
        # What white does not take must not fall on what is drawn beside it.
        others = 1 - _average_cells(white[..., None].view(np.uint8), *tone.shape[:2])
    for _ in range(_ROUNDS):
        # One round may not be enough, since samples are clipped at white and black.
        difference = others * (tone - _average_cells(color, *tone.shape[:2]))
        if np.abs(difference.mean(axis=(0, 1))).max() <= ENOUGH * unit:
            break
        # Of an engine's array in another order, reshaping would make a copy, and the correction would be lost.
        color = np.require(color, requirements=["C", "W"])
        _add(color, difference, white)
    return replace(page, color=color, tone=None)


def _average_cells(color: SampleArray, rows: int, columns: int) -> NDArray[np.float32]:
    height, width, channels = color.shape
    result = np.empty((rows, columns, channels), np.float32)
    starts = np.arange(columns) * width // columns
    lengths = np.diff(starts, append=width)[:, None]
    for row in range(rows):
        strip = color[row * height // rows : (row + 1) * height // rows]
        sums = np.add.reduceat(_sum_rows(strip), starts, axis=0, dtype=np.float64)
        result[row] = sums / (lengths * len(strip))
    return result


def _sum_rows(strip: SampleArray) -> NDArray[np.unsignedinteger]:
    """Return the exact sums over the rows of a strip, in the narrowest type that holds them: it is the fastest."""
    largest = len(strip) * np.iinfo(strip.dtype).max
    sums: NDArray[np.unsignedinteger] = strip.sum(axis=0, dtype=np.min_scalar_type(largest))
    return sums


def _find_white(color: SampleArray) -> NDArray[np.bool_]:
    """Return which pixels are pure white."""
    top = np.iinfo(color.dtype).max
    # Only for the largest sample are all bits set, and of all channels together.
    together = reduce(np.bitwise_and, (color[:, :, channel] for channel in range(color.shape[2])))
    return np.equal(together, top)


def _add(color: SampleArray, difference: NDArray[np.float32], kept: NDArray[np.bool_] | None = None) -> None:
    """Add the difference of every cell, interpolated linearly between cells, strip by strip.

    Args:
        color: changed in place.
        difference: of each cell.
        kept: pixels that do not become darker, height x width; None for none.
    """
    height, width, channels = color.shape
    before, after, share = _interpolate(width, difference.shape[1])
    wide = difference[:, before] * (1 - share)[:, None] + difference[:, after] * share[:, None]
    wide = wide.reshape(len(difference), width * channels)
    before, after, share = _interpolate(height, difference.shape[0])
    top = np.iinfo(color.dtype).max
    flat = color.reshape(height, width * channels)
    # All rows between two starts lie between the same cells.
    starts = np.flatnonzero(np.diff(before, prepend=-1)).tolist()
    for start, end in pairwise((*starts, height)):
        upper, lower = wide[before[start]], wide[after[start]]
        moving = np.flatnonzero(np.maximum(np.abs(upper), np.abs(lower)) > _UNCHANGED)
        if not len(moving):
            continue
        columns = slice(moving[0], moving[-1] + 1)
        # Strips are small, so that they stay in the processor's cache.
        for at in range(start, end, _ROWS):
            rows = slice(at, min(at + _ROWS, end))
            weight = share[rows, None]
            field = upper[columns] * (1 - weight)
            field += lower[columns] * weight
            if kept is not None:
                samples = np.broadcast_to(kept[rows, :, None], color[rows].shape).reshape(len(field), -1)
                np.maximum(field, 0, out=field, where=samples[:, columns])
            field += flat[rows, columns]
            np.rint(field.clip(0, top, out=field), out=field)
            flat[rows, columns] = field


def _interpolate(length: int, cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return for each pixel of an axis the cells whose centres are before and after it, and the latter's weight."""
    place = ((np.arange(length) + 0.5) * cells / length - 0.5).clip(0, cells - 1)
    before = np.minimum(place.astype(np.intp), max(cells - 2, 0))
    return before, np.minimum(before + 1, cells - 1), (place - before).astype(np.float32)
