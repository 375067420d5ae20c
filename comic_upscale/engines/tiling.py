"""Cut a page into even tiles that together produce every pixel of the target once. Geometry only, no torch.

A tile has a *window* of the page, which goes through the network, and a *cell* of the target, which is taken from the
output. The two axes are planned separately; every tile combines one row and one column.

::

    page      |........................................|
    windows   |<------------->|                        |     all of one length, inside the page
              |            |<------------->|           |
              |                        |<------------->|
    cells     |<--------->|<---------->|<------------->|     on the target, even, without gap or overlap

A window contains every input pixel that the resampling of its cell uses, and ``overlap`` more pixels around them
wherever the page continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from comic_upscale.engines.lanczos import Span, input_span
from comic_upscale.imaging.pixels import Borders

SMALLEST_TILE = 64
"""Pixels. A smaller window would be mostly overlap."""
DEFAULT_OVERLAP = 32
"""Pixels of overlap if the network's receptive radius is unknown, or too large to be worthwhile."""
LONGEST_OVERLAP = 48
"""A network with a receptive radius of at most this gets its full radius, so that tiled and untiled pages agree."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A window of the padded page, and the cell of the target that it produces."""

    rows: Span
    """The window's rows, in input pixels."""
    columns: Span
    """The window's columns, in input pixels."""
    cell_rows: Span
    """The cell's rows, in target pixels."""
    cell_columns: Span
    """The cell's columns, in target pixels."""


class AxisTile(NamedTuple):
    """One axis of a tile."""

    window: Span
    cell: Span


def default_overlap(receptive_radius: int | None) -> int:
    """Return the overlap in input pixels for a network with this receptive radius."""
    if receptive_radius is not None and receptive_radius <= LONGEST_OVERLAP:
        return receptive_radius
    return DEFAULT_OVERLAP


def padded_size(
    height: int, width: int, *, multiple_of: int = 1, minimum: int = 0, square: bool = False
) -> tuple[int, int]:
    """Return (height, width) of the page, padded at the bottom and right to a size that the network accepts."""

    def up(length: int) -> int:
        return -(-max(length, minimum) // multiple_of) * multiple_of

    height, width = up(height), up(width)
    return (max(height, width),) * 2 if square else (height, width)


def plan_tiles(
    page_size: tuple[int, int],
    target_size: tuple[int, int],
    *,
    native_scale: int,
    longest: int | None,
    overlap: int = DEFAULT_OVERLAP,
    multiple_of: int = 1,
    minimum: int = 0,
    square: bool = False,
    fixed: tuple[int, int] | None = None,
) -> list[Tile]:
    """Cut a page into tiles, row by row; a page that fits in one window is one tile.

    Args:
        page_size: (height, width) of the page in pixels, before padding.
        target_size: (height, width) of the result in pixels.
        native_scale: the network's own factor.
        longest: the longest side of a window in pixels; None never cuts. A window is longer only if one
            pixel of the target needs more.
        overlap: pixels around the input of a cell; at most a quarter of ``longest`` is used.
        multiple_of: windows start at multiples of this, and their sides are multiples as far as ``longest`` allows.
        minimum: the shortest side that the network accepts.
        square: whether the network accepts only square windows.
        fixed: (height, width) of the only windows that the network accepts, in place of the four before.

    Returns:
        At least one tile. All windows have the same size and are inside the padded page (``padded_size``).
        The cells cover the target exactly once.
    """
    if fixed is not None:
        return _plan_fixed(page_size, target_size, native_scale, overlap, fixed)
    padded = padded_size(*page_size, multiple_of=multiple_of, minimum=minimum, square=square)
    if longest is not None:
        overlap = min(overlap, longest // 4)
    axes = [
        _Axis(page, whole, target, native_scale, overlap, multiple_of, minimum)
        for page, whole, target in zip(page_size, padded, target_size, strict=True)
    ]
    plans = [axis.plan(longest) for axis in axes]
    if square and plans[0][0].window.length != plans[1][0].window.length:
        # The padded page is also square, so the longer window fits along both axes.
        length = max(plan[0].window.length for plan in plans)
        plans = [
            axis.place([tile.cell for tile in plan], length) for axis, plan in zip(axes, plans, strict=True)
        ]
    return _cross(plans)


def _plan_fixed(
    page_size: tuple[int, int],
    target_size: tuple[int, int],
    native_scale: int,
    overlap: int,
    fixed: tuple[int, int],
) -> list[Tile]:
    plans = []
    for page, target, length in zip(page_size, target_size, fixed, strict=True):
        axis = _Axis(page, max(page, length), target, native_scale, min(overlap, length // 4), 1, length)
        plans.append(axis.plan(length))
    return _cross(plans)


def _cross(plans: Sequence[Sequence[AxisTile]]) -> list[Tile]:
    """Return every tile that a row's plan and a column's plan make."""
    return [Tile(row.window, column.window, row.cell, column.cell) for row in plans[0] for column in plans[1]]


def borders_of(tiles: Sequence[Tile]) -> Borders:
    """Return the borders between the cells of a plan on the target."""
    return Borders(
        rows=tuple(sorted({tile.cell_rows.start for tile in tiles} - {0})),
        columns=tuple(sorted({tile.cell_columns.start for tile in tiles} - {0})),
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """The parameters of one axis of a plan; lengths in pixels."""

    page: int
    padded: int
    target: int
    native_scale: int
    overlap: int
    multiple_of: int
    minimum: int

    def plan(self, longest: int | None) -> list[AxisTile]:
        """Return the fewest even cells whose windows are no longer than ``longest``."""
        if longest is None or self.padded <= longest:
            return self.place([Span(0, self.target)], self.padded)
        # Too few on purpose: the overlap is not counted yet, and the loop adds the cells that it needs.
        count = min(max(2, self.padded // longest), self.target)
        while True:
            cells = self._even_cells(count)
            length = max(self._align(self._need(cell)).length for cell in cells)
            if length <= longest or count == self.target:
                return self.place(cells, min(max(length, self.minimum), self.padded))
            # The step is proportional to the excess, so that small windows on long pages are found quickly.
            slack = max(longest - 2 * self._margin(), 1)
            over = (length - 2 * self._margin()) / slack
            count = min(max(count + 1, int(count * over * 0.9)), self.target)

    def place(self, cells: list[Span], length: int) -> list[AxisTile]:
        """Give each cell a window of this length around its input, inside the padded page."""
        tiles = []
        for cell in cells:
            need = self._align(self._need(cell))
            spare = (length - need.length) // 2 // self.multiple_of * self.multiple_of
            start = max(0, min(need.start - spare, self.padded - length))
            tiles.append(AxisTile(Span(start, start + length), cell))
        return tiles

    def _even_cells(self, count: int) -> list[Span]:
        cuts = [self.target * index // count for index in range(count + 1)]
        return [Span(cuts[index], cuts[index + 1]) for index in range(count)]

    def _need(self, cell: Span) -> Span:
        """Return the input pixels on which a cell depends, including the overlap."""
        native = input_span(self.page * self.native_scale, self.target, cell)
        start = native.start // self.native_scale - self.overlap
        stop = -(-native.stop // self.native_scale) + self.overlap
        return Span(max(0, start), min(self.padded, stop))

    def _align(self, need: Span) -> Span:
        # A network with pixel-unshuffle gives another result if the window starts between two of its squares.
        start = need.start // self.multiple_of * self.multiple_of
        stop = -(-need.stop // self.multiple_of) * self.multiple_of
        return Span(start, stop)

    def _margin(self) -> int:
        """Return roughly how many pixels a window extends beyond its cell on each side."""
        native = self.page * self.native_scale
        return self.overlap + int(3 * max(native / self.target, 1.0) / self.native_scale) + 1
