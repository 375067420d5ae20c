"""The lowest and the highest channel of each pixel, by which white and black are known."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from comic_upscale.imaging.pixels import SampleArray

Extremes: TypeAlias = tuple[SampleArray, SampleArray]
"""The lowest and the highest sample of each pixel, height x width each. For gray pages both are the page."""

_ROWS = 64


def channel_extremes(color: SampleArray) -> Extremes:
    """Return the lowest and the highest sample of each pixel.

    Args:
        color: uint8 or uint16, height x width x 3 or 1.
    """
    height, width, channels = color.shape
    if channels == 1:
        return color[:, :, 0], color[:, :, 0]
    lowest, highest = (np.empty((height, width), color.dtype) for _ in range(2))
    # NumPy compares samples that follow each other ten times as fast as samples with a stride. So all neighbours are
    # compared, and only every third result is used.
    for start in range(0, height, _ROWS):
        flat = color[start : start + _ROWS].reshape(-1)
        for result, choose in ((lowest, np.minimum), (highest, np.maximum)):
            chosen = choose(flat[:-2], flat[1:-1])
            choose(chosen, flat[2:], out=chosen)
            result[start : start + _ROWS] = chosen[::3].reshape(-1, width)
    return lowest, highest
