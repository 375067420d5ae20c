"""Detect gray pages, also when they are stored in colour: scans saved as RGB, JPEGs with slight colour noise.

These are the two numbers of ``colourfulness`` (largest block, cast) in grey levels, measured on 77 real pages and
odd files that are stored with three channels or a palette:

* 12 look gray and have equal channels: 0.0 and 0.0. Newsprint of 1915 and pencil scans are among them.
* 2 are ink drawings whose palettes have faint colours, from the scanner and from building the palette: 10.3 and
0.26, 13.2 and 0.12.
* The pages with the least visible colour have one coloured drawing or bubble among gray: 25.5 and 0.14, 43.9 and
0.02, 44.1 and 0.06, and so on up to 255. Their cast is smaller than that of the gray pages. So the cast alone
decides nothing, and the block decides nearly everything.
* A photograph in faded colours has 4.7 and 1.31. Here only the cast shows the colour.

A pale line one pixel wide, such as (200, 150, 150) on white, has 12.5 and counts as gray. Means along runs of 16
pixels do not help: the line has 50 there, one of the two ink drawings 44.0, and two pages with a coloured drawing
44.6 and 45.4. No bound separates these with a margin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.imaging.pixels import SampleArray, UInt8Array

LARGEST_BLOCK = 14.0
"""On a gray page, the channels of the mean of 4 x 4 pixels differ by at most this, in grey levels. A single pixel
of full colour makes 16, so a page with one spot of colour stays a colour page."""
LARGEST_CAST = 0.5
"""On a gray page, a channel's mean over the page differs from the mean of the gray by at most this, in grey levels.
Yellow paper counts as colour, even if faint; half a level is invisible."""

_BLOCK = 4
_ROWS = 512
_FINEST_LOOK = 8
_RGB_TO_GRAY = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601, as Pillow's ``convert("L")``."""


def is_gray(color: SampleArray, alpha: SampleArray | None = None) -> bool:
    """Return whether an RGB page shows no colour except noise.

    Args:
        color: uint8 or uint16, height x width x 3.
        alpha: height x width; fully transparent pixels do not count.
    """
    # Most pages are in colour, and a few of their pixels are enough to see it.
    step = _FINEST_LOOK
    few = eight_bits(color[::step, ::step])
    seen = None if alpha is None else alpha[::step, ::step] > 0
    spread = np.ptp(few, axis=2)
    if seen is not None:
        spread = spread * seen
    if np.count_nonzero(spread > 4 * LARGEST_BLOCK) > 0.001 * spread.size + 4:
        return False
    block, cast = colourfulness(color, alpha, enough=LARGEST_BLOCK)
    return block <= LARGEST_BLOCK and cast <= LARGEST_CAST


def colourfulness(
    color: SampleArray, alpha: SampleArray | None = None, *, enough: float = 256.0
) -> tuple[float, float]:
    """Measure how far an RGB page is from gray, in grey levels of 8 bits.

    Args:
        color: uint8 or uint16, height x width x 3.
        alpha: height x width; fully transparent pixels do not count.
        enough: the search ends at a block above this.

    Returns:
        The largest difference between the channels' means over a block of 4 x 4 pixels, and the largest
        difference between a channel's mean over the page and the mean of the resulting gray page.
    """
    height, width = color.shape[:2]
    largest, sums, count = 0.0, np.zeros(3), height * width
    if alpha is not None:
        count = max(1, int(np.count_nonzero(alpha)))
    for start in range(0, height, _ROWS):
        rows = eight_bits(color[start : start + _ROWS])
        if alpha is not None:
            rows = rows * (alpha[start : start + _ROWS] > 0)[:, :, None]
        if (rows[:, :, 0] == rows[:, :, 1]).all() and (rows[:, :, 1] == rows[:, :, 2]).all():
            sums += rows[:, :, 1].sum(dtype=np.int64)
            continue
        sums += rows.sum(axis=(0, 1), dtype=np.int64)
        largest = max(largest, _largest_block(rows))
        if largest > enough:
            break
    means = sums / count
    return largest, float(np.abs(means - means @ _RGB_TO_GRAY).max())


def to_gray(color: SampleArray) -> SampleArray:
    """Return the luma of an RGB page, height x width x 1 of the same type; equal channels stay as they are."""
    if color.dtype == np.uint8:
        return np.array(Image.fromarray(color).convert("L"))[:, :, None]
    gray = np.empty((*color.shape[:2], 1), np.uint16)
    for start in range(0, len(color), _ROWS):
        rows = slice(start, start + _ROWS)
        gray[rows, :, 0] = np.rint(color[rows] @ _RGB_TO_GRAY)
    return gray


def eight_bits(samples: SampleArray) -> UInt8Array:
    """Return samples rounded to 8 bits. Samples of 8 bits are returned unchanged."""
    if samples.dtype == np.uint8:
        return samples.astype(np.uint8, copy=False)
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def high_bytes(samples: SampleArray) -> UInt8Array:
    """Return samples truncated to 8 bits, in a fifth of the time of `eight_bits`."""
    return (samples if samples.dtype == np.uint8 else samples >> 8).astype(np.uint8, copy=False)


def _largest_block(rows: UInt8Array) -> float:
    height, width = rows.shape[:2]
    if height < _BLOCK or width < _BLOCK:
        return float(np.ptp(rows, axis=2).max())
    # Blocks at the right and bottom edges overlap their neighbours, so that they cover every pixel.
    sums = rows[:, : width // _BLOCK * _BLOCK].reshape(height, -1, _BLOCK, 3).sum(axis=2, dtype=np.uint16)
    last = rows[:, -_BLOCK:].sum(axis=1, dtype=np.uint16)[:, None]
    sums = np.concatenate((sums, last), axis=1)
    whole = (
        sums[: height // _BLOCK * _BLOCK].reshape(-1, _BLOCK, sums.shape[1], 3).sum(axis=1, dtype=np.uint16)
    )
    bottom = sums[-_BLOCK:].sum(axis=0, dtype=np.uint16)[None]
    return max(float(np.ptp(blocks.astype(np.int32), axis=2).max()) for blocks in (whole, bottom)) / _BLOCK**2


def colour_of_blocks(color: SampleArray, side: int) -> NDArray[np.float32]:
    """Return how much the channels' means differ in each block of an RGB page, in grey levels of 8 bits.

    Args:
        color: height x width x 3, at least one block in size; pixels beyond the last whole block do not count.
        side: of a block, in pixels.
    """
    rows, columns = max(1, color.shape[0] // side), max(1, color.shape[1] // side)
    rgb = eight_bits(color)[: rows * side, : columns * side]
    height, width = rgb.shape[0] // rows, rgb.shape[1] // columns
    sums = rgb.reshape(rows, height, columns, width, 3).sum(axis=(1, 3), dtype=np.float32)
    spread: NDArray[np.float32] = np.ptp(sums / (height * width), axis=2)
    return spread
