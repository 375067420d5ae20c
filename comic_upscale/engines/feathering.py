"""Cut a page into overlapping windows, and blend their results without a seam. Geometry and NumPy only.

Engines that draw details of their own, such as diffusion models, draw two windows differently where these overlap.
Cells that are cut at a border (`tiling.py`) would show that. So here each window fades into its neighbour along a
*band*::

    windows   |<------------->|
                         |<------------->|
    bands                  |-|

A pixel belongs to at most two windows along an axis, and the weights of all windows at a pixel sum to 1. Near its own
edges a window has the weight 0 as far as the overlap is wider than the band, because models are worst there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from comic_upscale.engines.lanczos import Span
from comic_upscale.imaging.pixels import Borders

Floats: TypeAlias = NDArray[np.float32]

LARGEST_SHARE = 3
"""A band takes at most a third of a window. So the bands of a window do not touch each other."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The windows of one axis."""

    length: int
    """Pixels of the axis, at least 1."""
    window: int
    """Pixels of each window."""
    starts: tuple[int, ...]
    """The first pixel of each window, ascending."""
    band: int
    """Pixels of the band along which a window fades into the next; 0 if windows do not overlap."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """The windows. All are inside the axis."""
        return tuple(Span(start, start + self.window) for start in self.starts)

    @property
    def borders(self) -> tuple[int, ...]:
        """The middle of each band: the first pixel at which the next window has more weight than the one before."""
        return tuple(self._band_start(index) + self.band // 2 for index in range(1, len(self.starts)))

    def scaled(self, factor: int) -> Axis:
        """Return the same windows on an axis that is this many times as long."""
        starts = tuple(start * factor for start in self.starts)
        return Axis(self.length * factor, self.window * factor, starts, self.band * factor)

    def weights(self, index: int) -> Floats:
        """Return the weight of each pixel of a window, 0 to 1. Those of all windows at a pixel sum to 1."""
        places = np.arange(self.window, dtype=np.float64) + self.starts[index]
        weights = np.ones(self.window)
        if index > 0:
            weights *= self._ramp(places, index)
        if index + 1 < len(self.starts):
            weights *= 1 - self._ramp(places, index + 1)
        return weights.astype(np.float32)

    def _band_start(self, index: int) -> int:
        """Return the first pixel of the band before a window: the band is in the middle of the overlap."""
        overlap = self.starts[index - 1] + self.window - self.starts[index]
        return self.starts[index] + (overlap - self.band) // 2

    def _ramp(self, places: NDArray[np.float64], index: int) -> NDArray[np.float64]:
        """Return the share of a window in its sum with the one before: 0 before the band, 1 after it."""
        if self.band == 0:
            return (places >= self.starts[index]).astype(np.float64)
        share = np.clip((places - self._band_start(index) + 0.5) / self.band, 0, 1)
        return (1 - np.cos(np.pi * share)) / 2


def plan_axis(length: int, window: int, overlap: int, multiple_of: int = 1) -> Axis:
    """Cut an axis into the fewest windows.

    Args:
        length: pixels of the axis; a multiple of ``multiple_of``.
        window: the longest window in pixels, at least ``multiple_of``.
        overlap: pixels that neighbours share at least; limited to a third of the window.
        multiple_of: starts and lengths of windows are multiples of this.

    Raises:
        ValueError: the length is not such a multiple, or a number is too small.
    """
    if length < 1 or length % multiple_of or window < multiple_of or overlap < 0:
        raise ValueError(f"an axis of {length} cannot have windows of {window} in steps of {multiple_of}")
    whole, piece = length // multiple_of, min(window, length) // multiple_of
    shared = min(-(-overlap // multiple_of), piece // LARGEST_SHARE)
    if piece == whole:
        return Axis(length, length, (0,), 0)
    count = math.ceil((whole - shared) / (piece - shared))
    steps = [round(index * (whole - piece) / (count - 1)) for index in range(count)]
    # A band as wide as the overlap that was asked for: beyond it, windows keep away from their own edges.
    return Axis(
        length, piece * multiple_of, tuple(step * multiple_of for step in steps), shared * multiple_of
    )


@dataclass(frozen=True, slots=True)
class Window:
    """A window of a page, with the weights of its result."""

    rows: Span
    columns: Span
    row_weights: Floats
    """For each row, 0 to 1."""
    column_weights: Floats
    """For each column, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a page: every row of windows crosses every column."""

    rows: Axis
    columns: Axis

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the page in pixels."""
        return self.rows.length, self.columns.length

    @property
    def borders(self) -> Borders:
        """The middle lines of the bands."""
        return Borders(self.rows.borders, self.columns.borders)

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def scaled(self, factor: int) -> Windows:
        """Return the same windows on a page that is this many times as large."""
        return Windows(self.rows.scaled(factor), self.columns.scaled(factor))

    def all(self) -> Sequence[Window]:
        """Return the windows, row by row."""
        return [
            Window(rows, columns, self.rows.weights(down), self.columns.weights(right))
            for down, rows in enumerate(self.rows.spans)
            for right, columns in enumerate(self.columns.spans)
        ]


def plan_windows(
    size: tuple[int, int], window: tuple[int, int], overlap: int, multiple_of: int = 1
) -> Windows:
    """Cut a page into the fewest windows of this size; arguments as (height, width), otherwise as `plan_axis`."""
    rows, columns = (
        plan_axis(length, longest, overlap, multiple_of) for length, longest in zip(size, window, strict=True)
    )
    return Windows(rows, columns)


def plan_by_area(size: tuple[int, int], most_pixels: int, overlap: int) -> Windows:
    """Cut a page into the fewest windows of at most this many pixels: each window of a billed service costs money.

    Args:
        size: (height, width) of the page in pixels.
        most_pixels: of a window, at least 1.
        overlap: pixels that neighbours share.
    """
    height, width = size
    best: Windows | None = None
    across = 1
    while best is None or across <= len(best):
        # The narrowest windows that give this many columns.
        narrow = min(width, -(-(width + (across - 1) * overlap) // across))
        high = min(height, max(1, most_pixels // narrow))
        if narrow * high <= most_pixels and high >= min(height, LARGEST_SHARE * overlap):
            plan = plan_windows(size, (high, narrow), overlap)
            if best is None or len(plan) < len(best):
                best = plan
        if narrow <= LARGEST_SHARE * max(overlap, 1):
            break
        across += 1
    if best is None:
        side = max(1, math.isqrt(most_pixels))
        best = plan_windows(size, (side, side), min(overlap, side // LARGEST_SHARE))
    return best


class FeatheredPage:
    """Adds the results of windows up to a page.

    Args:
        size: (height, width) of the page in pixels.
        channels: of the results.
    """

    def __init__(self, size: tuple[int, int], channels: int) -> None:
        self._sum = np.zeros((*size, channels), np.float32)

    def add(self, window: Window, pixels: NDArray[np.generic]) -> None:
        """Add the result of a window: its height x its width x channels, in any unit."""
        weighted = pixels.astype(np.float32)
        weighted *= window.row_weights[:, None, None]
        weighted *= window.column_weights[None, :, None]
        self._sum[slice(*window.rows), slice(*window.columns)] += weighted

    def result(self) -> Floats:
        """Return the page, height x width x channels, in the unit of the results. All windows must have been added."""
        return self._sum
