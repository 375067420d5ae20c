"""Find seams: jumps exactly at the borders between tiles.

There are two methods. `worst_seam` examines the upscaled page for fine seams. It uses the third difference across each
border, which is close to zero in smooth images, however steep. It also uses the source, because a drawn line causes a
third difference too, and hides a seam from the eye. `worst_step` examines the difference from the source, for a tile
that is lighter or darker than its neighbours. It also works in drawings and screentone.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.pixels import Borders, UInt8Array

REACH = 8
"""Pixels of the upscaled page that are examined on either side of a border."""
_FEWEST = 24
"""With fewer pixels in flat parts of the source, a border is not scored."""
_LEAST_CALM = 0.02
"""The smallest share of a border, by the mean of its weights, that must be flat."""
_PIECE = 48
"""A drawn edge keeps its sign for at least this many pixels of the upscaled page along a border."""
_BEND_OF_A_STEP = 1.5
"""The third difference, as measured here, of a step of one level."""
_CALM = 6.0
"""Levels of contrast in the source around a border with which its pixels have half weight."""
_BAND = 4
"""Width in shrunk pixels of the bands on either side of a border whose means are compared. The pixels next to the
border are left out, because it may run through the middle of one."""
_ELSEWHERE = np.array([-36, -30, -24, -18, -12, 12, 18, 24, 30, 36])
"""Distances from a border, in shrunk pixels, of the reference measurements. A network changes pages equally there."""
_SHORTEST = 24
"""A tile with a shorter side, in shrunk pixels, is not scored."""

Floats = NDArray[np.float32]


def worst_seam(source: UInt8Array, larger: UInt8Array, borders: Borders) -> float:
    """Return how much the worst border of a tile stands out from its surroundings, in levels; 0 without borders.

    Args:
        source: uint8, height x width x C.
        larger: uint8, the upscaled page, with the same number of channels.
        borders: the borders between tiles in the upscaled page.
    """
    height, width = larger.shape[:2]
    rows = (0, *borders.rows, height)
    columns = (0, *borders.columns, width)
    upright = [_stands_out(source, larger, place, rows) for place in borders.columns]
    turned_source, turned = source.transpose(1, 0, 2), larger.transpose(1, 0, 2)
    lying = [_stands_out(turned_source, turned, place, columns) for place in borders.rows]
    return max([0.0, *upright, *lying])


def worst_step(difference: Floats, borders: Borders) -> float:
    """Return how much more a tile differs in tone from its neighbour than areas beside their border do.

    Args:
        difference: difference of the upscaled page from its source, both shrunk, in levels of luma, height x width.
        borders: the borders between tiles in it.

    Returns:
        Levels, for the worst border; 0 without borders.
    """
    height, width = difference.shape
    upright = _worst_step(difference, (0, *borders.rows, height), borders.columns)
    lying = _worst_step(difference.T, (0, *borders.columns, width), borders.rows)
    return max(0.0, upright, lying)


def _worst_step(difference: Floats, ends: tuple[int, ...], places: tuple[int, ...]) -> float:
    """Return the result of `worst_step` for borders that are columns, each in pieces between ``ends``."""
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
    """Return for each position the difference between the means of the bands on both sides; 0 near the ends."""
    steps = np.zeros(len(profile))
    reach = _BAND + 1
    if len(profile) <= 2 * reach:
        return steps
    sums = np.concatenate(([0.0], np.cumsum(profile)))
    bands = (sums[_BAND:] - sums[:-_BAND]) / _BAND
    # One shrunk pixel is left out on either side of each position.
    places = np.arange(reach, len(profile) - reach)
    steps[places] = np.abs(bands[places + 1] - bands[places - reach])
    return steps


def _stands_out(source: UInt8Array, larger: UInt8Array, column: int, ends: tuple[int, ...]) -> float:
    """Return the result of `worst_seam` for one column, in pieces between ``ends``."""
    width = larger.shape[1]
    if column < REACH or column + REACH > width:
        return 0.0
    strip = larger[:, column - REACH : column + REACH].mean(axis=2, dtype=np.float32)
    bends: Floats = (np.abs(np.diff(strip, n=3, axis=1)) / 2).astype(np.float32, copy=False)
    weights, steps = _drawn(source, larger.shape, column)
    pieces = [slice(one, other) for one, other in pairwise(ends)]
    return max(_excess(bends[piece], weights[piece], steps[piece]) for piece in pieces)


def _excess(bends: Floats, weights: Floats, steps: Floats) -> float:
    """Return by how many levels the third difference in the middle exceeds those beside it and those of the drawing.

    Args:
        bends: third differences of each pixel along the border, at ``2 * REACH - 3`` positions across it.
        weights: weight of each pixel along the border.
        steps: step of the source at each pixel along the border.
    """
    total = float(weights.sum())
    if total < max(_FEWEST, _LEAST_CALM * len(weights)):
        return 0.0
    means = weights @ bends / total
    middle = REACH - 2
    # A single jump also affects the next position. Everything beyond belongs to the image. The maximum counts and not
    # the mean, because third differences of screentone are periodic.
    beside = np.concatenate((means[: middle - 1], means[middle + 2 :]))
    # With signs within a piece, so that paper and screentone cancel out, and a drawn edge remains.
    starts = np.arange(0, len(steps), _PIECE)
    drawn = float(np.abs(np.add.reduceat(weights * steps, starts)).sum()) / total
    return max(0.0, float(means[middle] - beside.max()) - _BEND_OF_A_STEP * drawn)


def _drawn(source: UInt8Array, shape: tuple[int, ...], column: int) -> tuple[Floats, Floats]:
    """Examine the source along a border of the upscaled page.

    Returns:
        For each pixel along it, how flat the source is there, 0 to 1, and its step across the border, levels.
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
