"""Whether the tiles of a page fit together: a jump that lies exactly where two of them meet.

It is looked for in two ways. `worst_seam` takes the larger page as it is, for seams that are fine: across each border
the bend of the third order, which is next to nothing where a picture is smooth, however steep; and the source, since
a line that the artist drew bends as well, and hides a seam from the eye. `worst_step` takes the difference from the
source, for a tile that is lighter or darker than its neighbours: it sees that in drawings and screentone too.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.pixels import Borders, UInt8Array

REACH = 8
"""Pixels of the larger page on either side of a border that are looked at."""
_FEWEST = 24
"""Pixels of a border, at least, that lie in a calm part of the source, for anything to be said of it."""
_LEAST_CALM = 0.02
"""Part of a border, in the mean of its weights, that must be calm."""
_PIECE = 48
"""Pixels of the larger page along a border that a drawn edge keeps its sign for, at least."""
_BEND_OF_A_STEP = 1.5
"""The bend of the third order, as measured here, where a step of one level is."""
_CALM = 6.0
"""Levels of the source around a border at which its pixels count half."""
_BAND = 4
"""Shrunk pixels on either side of a border whose means are compared, but for those next to it: a border may run
through the middle of one."""
_ELSEWHERE = np.array([-36, -30, -24, -18, -12, 12, 18, 24, 30, 36])
"""Shrunk pixels from a border at which the same is measured: what a network does to a picture is no less there."""
_SHORTEST = 24
"""Shrunk pixels of a tile's side below which nothing is said of it."""

Floats = NDArray[np.float32]


def worst_seam(source: UInt8Array, larger: UInt8Array, borders: Borders) -> float:
    """Return how much the worst side of a tile stands out from what lies beside it, in levels; 0 without borders.

    Args:
        source: uint8, height x width x C.
        larger: uint8, larger, of as many channels.
        borders: where tiles meet in the larger page.
    """
    height, width = larger.shape[:2]
    rows = (0, *borders.rows, height)
    columns = (0, *borders.columns, width)
    upright = [_stands_out(source, larger, place, rows) for place in borders.columns]
    turned_source, turned = source.transpose(1, 0, 2), larger.transpose(1, 0, 2)
    lying = [_stands_out(turned_source, turned, place, columns) for place in borders.rows]
    return max([0.0, *upright, *lying])


def worst_step(difference: Floats, borders: Borders) -> float:
    """Return by how much a tile is lighter or darker than its neighbour than any two places beside their border.

    Args:
        difference: of the larger page from its source, in levels of luma, height x width, both shrunk.
        borders: where tiles meet in it.

    Returns:
        Levels, of the worst border; 0 without borders.
    """
    height, width = difference.shape
    upright = _worst_step(difference, (0, *borders.rows, height), borders.columns)
    lying = _worst_step(difference.T, (0, *borders.columns, width), borders.rows)
    return max(0.0, upright, lying)


def _worst_step(difference: Floats, ends: tuple[int, ...], places: tuple[int, ...]) -> float:
    """Return the same for borders that are columns, each in pieces from end to end."""
    worst = 0.0
    for top, bottom in pairwise(ends):
        if bottom - top < _SHORTEST or not places:
            continue
        steps = _steps(difference[top:bottom].mean(axis=0, dtype=np.float64))
        for place in places:
            beside = _ELSEWHERE + place
            beside = beside[(beside >= 0) & (beside < len(steps))]
            worst = max(worst, float(steps[place] - np.max(steps[beside], initial=0.0)))
    return worst


def _steps(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each place how far the means of the bands on both its sides lie apart; 0 where one is not whole."""
    steps = np.zeros(len(profile))
    reach = _BAND + 1
    if len(profile) <= 2 * reach:
        return steps
    sums = np.concatenate(([0.0], np.cumsum(profile)))
    bands = (sums[_BAND:] - sums[:-_BAND]) / _BAND
    # A place with one shrunk pixel left out on either side of it.
    places = np.arange(reach, len(profile) - reach)
    steps[places] = np.abs(bands[places + 1] - bands[places - reach])
    return steps


def _stands_out(source: UInt8Array, larger: UInt8Array, column: int, ends: tuple[int, ...]) -> float:
    """Return the same for one column, in pieces from end to end."""
    width = larger.shape[1]
    if column < REACH or column + REACH > width:
        return 0.0
    strip = larger[:, column - REACH : column + REACH].mean(axis=2, dtype=np.float32)
    bends = np.abs(np.diff(strip, n=3, axis=1)) / 2
    weights, steps = _drawn(source, larger.shape, column)
    pieces = [slice(one, other) for one, other in pairwise(ends)]
    return max(_excess(bends[piece], weights[piece], steps[piece]) for piece in pieces)


def _excess(bends: Floats, weights: Floats, steps: Floats) -> float:
    """Return by how many levels the bend in the middle is stronger than any beside it, and than what is drawn there.

    Args:
        bends: of each pixel along the border, at ``2 * REACH - 3`` places across it.
        weights: of each pixel along the border.
        steps: of each pixel along the border, of the source.
    """
    total = float(weights.sum())
    if total < max(_FEWEST, _LEAST_CALM * len(weights)):
        return 0.0
    means = weights @ bends / total
    middle = REACH - 2
    # The bend of a single jump is felt one place further, too; what lies beyond is the picture's own. Of that the
    # strongest, not the mean: screentone bends in step with itself.
    beside = np.concatenate((means[: middle - 1], means[middle + 2 :]))
    # Signed within a piece, so that paper and screentone cancel out, and an edge that was drawn is left.
    starts = np.arange(0, len(steps), _PIECE)
    drawn = float(np.abs(np.add.reduceat(weights * steps, starts)).sum()) / total
    return max(0.0, float(means[middle] - beside.max()) - _BEND_OF_A_STEP * drawn)


def _drawn(source: UInt8Array, shape: tuple[int, ...], column: int) -> tuple[Floats, Floats]:
    """Look at the source along a border of the larger page.

    Returns:
        For each pixel along it how calm the source is there, 0 to 1, and its step across the border, levels.
    """
    scale = shape[1] / source.shape[1]
    first = max(0, int((column - REACH) / scale))
    last = min(source.shape[1], int((column + REACH) / scale) + 2)
    around = source[:, first:last].mean(axis=2, dtype=np.float32)
    calm = 1 / (1 + np.square(np.ptp(around, axis=1) / _CALM))
    middle = min(max(int(column / scale) - first, 1), around.shape[1] - 1)
    step = around[:, min(middle + 1, around.shape[1] - 1)] - around[:, middle - 1]
    places = np.arange(shape[0]) * source.shape[0] // shape[0]
    return calm[places], step[places]
