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

from comic_upscale.imaging.pixels import Paper, Pixels, SampleArray

CELL = 32
"""The side of a cell whose average is kept, in source pixels. It is far coarser than any drawn line."""
ENOUGH = 0.25
"""The average of a page is corrected only if it moved by more than this, in grey levels."""

ROUNDS = 2
"""How often averages are corrected. One round may not be enough, since samples are clipped at white and black."""
_NEARLY_WHITE = 245 / 255
"""Paper is at least this white, as in the gate. What JPEG leaves on white is darker only beside ink."""
_UNCHANGED = 0.49
"""A sample that moves by at most this is rounded back to its value."""
_ROWS = 16


def tone_map(color: SampleArray) -> NDArray[np.float32]:
    """Return the average of every cell of a page for `restore_tone`: rows x columns x channels."""
    height, width = color.shape[:2]
    return _average_cells(color, -(-height // CELL), -(-width // CELL))


def paper_map(color: SampleArray) -> Paper:
    """Return the paper of every cell of a page for `restore_tone`."""
    top = np.iinfo(color.dtype).max
    height, width = color.shape[:2]
    rows, columns = -(-height // CELL), -(-width // CELL)
    nearly = _darkest_channel(color) >= _NEARLY_WHITE * top
    shortfall = np.where(nearly[..., None], top - color, 0).astype(color.dtype)
    return Paper(_average_cells(shortfall, rows, columns), _share_of(nearly, rows, columns))


def restore_tone(page: Pixels) -> Pixels:
    """Restore the averages of an upscaled page to those of its source.

    The difference is spread smoothly, so it neither adds nor removes edges. If the page has a map of its paper, what
    the network made pure white stays so: the average of the source would bring back, evenly, the artifacts that the
    network has removed. Such paper then counts as white in the source, so that what is drawn beside it keeps its tone.

    Args:
        page: upscaled, with the averages of its source. A writable, contiguous ``color`` is changed in place.
    """
    tone = page.tone
    if tone is None:
        return page
    color = page.color
    top = np.iinfo(color.dtype).max
    white = None
    others: NDArray[np.float32] | float = 1.0
    if page.paper is not None:
        white = _darkest_channel(color) == top
        share = _share_of(white, *tone.shape[:2])
        tone = tone + page.paper.shortfall * np.minimum(
            share / np.maximum(page.paper.share, np.float32(1e-6)), 1
        )
        # Artifacts beside ink are darker than paper. What white does not take of them must not fall on the ink.
        others = 1 - np.maximum(share - page.paper.share, 0)
    for _ in range(ROUNDS):
        difference = tone - _average_cells(color, *tone.shape[:2])
        difference = np.maximum(difference, difference * others)
        # In double precision, so that a device, which adds in another order, decides the same.
        if np.abs(difference.mean(axis=(0, 1), dtype=np.float64)).max() <= ENOUGH * top / 255:
            break
        # Of an engine's array in another order, reshaping would make a copy, and the correction would be lost.
        color = np.require(color, requirements=["C", "W"])
        _add(color, difference, white)
    return replace(page, color=color, tone=None)


def _share_of(pixels: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.float32]:
    """Return the share of these pixels in every cell: rows x columns x 1."""
    return _average_cells(pixels[..., None].view(np.uint8), rows, columns)


def _darkest_channel(color: SampleArray) -> SampleArray:
    """Return the smallest sample of each pixel. NumPy's minimum over an axis of three takes ten times as long."""
    darkest: SampleArray = reduce(np.minimum, (color[:, :, channel] for channel in range(color.shape[2])))
    return darkest


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


def _add(color: SampleArray, difference: NDArray[np.float32], kept: NDArray[np.bool_] | None = None) -> None:
    """Add the difference of every cell, interpolated linearly between cells, strip by strip.

    Args:
        color: changed in place.
        difference: of each cell.
        kept: pixels that do not become darker, height x width; None for none.
    """
    height, width, channels = color.shape
    before, after, share = interpolate(width, difference.shape[1])
    wide = difference[:, before] * (1 - share)[:, None] + difference[:, after] * share[:, None]
    wide = wide.reshape(len(difference), width * channels)
    before, after, share = interpolate(height, difference.shape[0])
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


def interpolate(length: int, cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return for each pixel of an axis the cells whose centres are before and after it, and the latter's weight."""
    place = ((np.arange(length) + 0.5) * cells / length - 0.5).clip(0, cells - 1)
    before = np.minimum(place.astype(np.intp), max(cells - 2, 0))
    return before, np.minimum(before + 1, cells - 1), (place - before).astype(np.float32)
