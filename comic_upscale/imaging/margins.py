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
    rows = 0
    for start in range(0, len(color), _BLOCK):
        block = color[start : start + _BLOCK].astype(np.float32) - paper.astype(np.float32)
        if len(block) == _BLOCK and float(np.abs(_means(block)).max()) > MEAN_BOUND:
            # Its first rows may be paper: the bound for single pixels alone must not decide about them.
            return rows
        inked = (np.abs(block) > bound).any(axis=(1, 2))
        if inked.any():
            return rows + int(np.argmax(inked))
        rows += len(block)
    return rows


def _means(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means of a row of blocks: blocks x channels. The last block reaches to the edge."""
    columns = block.shape[1] // _BLOCK
    means = block[:, : columns * _BLOCK].reshape(_BLOCK, columns, _BLOCK, -1).mean(axis=(0, 2))
    last = block[:, -_BLOCK:].mean(axis=(0, 1))[None]
    result: NDArray[np.float32] = np.concatenate((means, last))
    return result
