"""Find the empty paper around a page. Nothing that may be ink is taken for paper.

A row or column of a margin is cut only if every one of its pixels is paper. Paper is light, nearly without colour, and
has the value of the outermost pixels of that side. Two tests look for ink. The first is a bound for single pixels, from
the noise of the paper itself. The second is a bound for means of 8 x 8 pixels, which faint screentone does not pass
although each of its pixels might. Yellowed paper that changes across the page fails the second test, so such a margin
stays. `benchmarks/margins.py` measures both on real pages.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.pixels import Pixels, UInt8Array

LIGHTEST_INK = 200
"""Paper is at least this light in each channel, of 255. A black border is ink."""
PIXEL_BOUND = 6
"""Levels by which a pixel of clean paper may differ from the paper. Noisy paper may differ by more: see `NOISE`."""
NOISE = 6.0
"""Standard deviations of the paper at the edge by which a pixel may differ from it."""
NOISIEST = 8
"""Levels by which a pixel may differ at most, however noisy the paper is."""
MEAN_BOUND = 1.5
"""Levels by which the mean of 8 x 8 pixels may differ from the paper."""
SAFETY = 0.005
"""Part of the longer side that stays as a margin around what is not paper."""

_BLOCK = 8
_ROWS = 256
"""Rows that are judged at once."""
_EDGE = 2


def find_content(page: Pixels) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of what is not empty margin, in pixels, with a little paper around it.

    A page without a margin, and one that is nothing but paper, is returned whole. A page with transparency is, too.
    """
    height, width = page.color.shape[:2]
    whole = (0, height, 0, width)
    if page.alpha is not None or min(height, width) < 8 * _BLOCK:
        return whole
    color = eight_bits(page.color)
    top = _margin(color)
    if top == height:
        return whole
    bottom = height - _margin(color[::-1])
    left = _margin(color.transpose(1, 0, 2))
    right = width - _margin(color[:, ::-1].transpose(1, 0, 2))
    if top >= bottom or left >= right:
        return whole
    room = max(1, round(SAFETY * max(height, width)))
    return max(0, top - room), min(height, bottom + room), max(0, left - room), min(width, right + room)


def _margin(color: UInt8Array) -> int:
    """Return the number of rows at the top that are empty paper."""
    edge = color[:_EDGE]
    paper = np.median(edge, axis=(0, 1))
    if paper.min() < LIGHTEST_INK or np.ptp(paper) > 255 - LIGHTEST_INK:
        return 0
    bound = float(np.clip(NOISE * edge.std(axis=(0, 1)).max(), PIXEL_BOUND, NOISIEST))
    height = len(color)
    for start in range(0, height, _ROWS):
        # Each row is judged together with those below it, so that the first rows of a faint area are not cut.
        part = color[start : start + _ROWS + _BLOCK - 1].astype(np.float32) - paper.astype(np.float32)
        rows = min(_ROWS, height - start)
        inked = (np.abs(part[:rows]) > bound).any(axis=(1, 2))
        inked |= _has_faint_ink(part)[:rows]
        if inked.any():
            return start + int(np.argmax(inked))
    return height


def _has_faint_ink(part: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return for each row whether a block that begins there has the mean of ink; rows x columns x channels."""
    columns = part.shape[1] // _BLOCK
    means = part[:, : columns * _BLOCK].reshape(len(part), columns, _BLOCK, -1).mean(axis=2)
    last = part[:, -_BLOCK:].mean(axis=1)[:, None]
    means = np.concatenate((means, last), axis=1)
    # At the end of the page, the blocks are less high.
    sums = np.concatenate(
        (np.zeros((1, *means.shape[1:]), np.float64), means.cumsum(axis=0, dtype=np.float64))
    )
    ends = np.minimum(np.arange(len(part)) + _BLOCK, len(part))
    counts = (ends - np.arange(len(part)))[:, None, None]
    blocks = (sums[ends] - sums[: len(part)]) / counts
    result: NDArray[np.bool_] = (np.abs(blocks) > MEAN_BOUND).any(axis=(1, 2))
    return result
