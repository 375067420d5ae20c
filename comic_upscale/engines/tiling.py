"""Even tiles of equal size that together make every pixel of the target once: geometry alone, no torch.

A tile is a *window* of the page that goes through the network, and the *cell* of the target that is
taken from it. The two axes are planned apart, and every tile is a row's plan with a column's plan.

::

    page      |........................................|
    windows   |<------------->|                        |     all of one length, inside the page
              |            |<------------->|           |
              |                        |<------------->|
    cells     |<--------->|<---------->|<------------->|     on the target, even, without gap or overlap

Every input pixel that a cell's resampling touches lies in its window, and ``overlap`` more pixels
around it wherever the page goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from comic_upscale.engines.lanczos import Span, input_span
from comic_upscale.imaging.pixels import Borders

SMALLEST_TILE = 64
"""Pixels: below this side a window is mostly overlap."""
DEFAULT_OVERLAP = 32
"""Pixels of overlap where the network's reach is not known, or too long to pay for."""
LONGEST_OVERLAP = 48
"""A network whose reach is at most this gets all of it, so that tiled and untiled pages agree."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A window of the padded page, and the cell of the target that is taken from it."""

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
    """Return the overlap in input pixels for a network whose output depends on inputs that far away."""
    if receptive_radius is not None and receptive_radius <= LONGEST_OVERLAP:
        return receptive_radius
    return DEFAULT_OVERLAP


def padded_size(
    height: int, width: int, *, multiple_of: int = 1, minimum: int = 0, square: bool = False
) -> tuple[int, int]:
    """Return (height, width) of the page padded at its bottom and right to what the network takes."""

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
        longest: the longest side of a window in pixels; None never cuts. It gives way only where one
            pixel of the target needs more than that.
        overlap: pixels around what a cell needs; at most a quarter of ``longest`` is used.
        multiple_of: windows start at and, as far as ``longest`` allows, measure multiples of this.
        minimum: the shortest side that the network takes.
        square: whether the network takes only windows as high as wide.
        fixed: (height, width) of the only windows that the network takes, in place of the four before.

    Returns:
        At least one tile. All windows have one size and lie inside the page as ``padded_size`` gives it.
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
        # The padded page is square too, so the longer window fits along either axis.
        length = max(plan[0].window.length for plan in plans)
        plans = [
            axis.place([tile.cell for tile in plan], length) for axis, plan in zip(axes, plans, strict=True)
        ]
    return _crossed(plans)


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
    return _crossed(plans)


def _crossed(plans: Sequence[Sequence[AxisTile]]) -> list[Tile]:
    """Return every tile that a row's plan and a column's plan make."""
    return [Tile(row.window, column.window, row.cell, column.cell) for row in plans[0] for column in plans[1]]


def borders_of(tiles: Sequence[Tile]) -> Borders:
    """Return where the cells of a plan meet on the target."""
    return Borders(
        rows=tuple(sorted({tile.cell_rows.start for tile in tiles} - {0})),
        columns=tuple(sorted({tile.cell_columns.start for tile in tiles} - {0})),
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """What one axis of a plan depends on; lengths in pixels."""

    page: int
    padded: int
    target: int
    native_scale: int
    overlap: int
    multiple_of: int
    minimum: int

    def plan(self, longest: int | None) -> list[AxisTile]:
        """Return as few even cells as have windows no longer than ``longest``."""
        if longest is None or self.padded <= longest:
            return self.place([Span(0, self.target)], self.padded)
        # Too few on purpose: the overlap comes on top, and the loop finds how many more that makes.
        count = min(max(2, self.padded // longest), self.target)
        while True:
            cells = self._even_cells(count)
            length = max(self._aligned(self._need(cell)).length for cell in cells)
            if length <= longest or count == self.target:
                return self.place(cells, min(max(length, self.minimum), self.padded))
            # A step in proportion to what is missing, so that small windows on long pages are found soon.
            slack = max(longest - 2 * self._margin(), 1)
            over = (length - 2 * self._margin()) / slack
            count = min(max(count + 1, int(count * over * 0.9)), self.target)

    def place(self, cells: list[Span], length: int) -> list[AxisTile]:
        """Give each cell a window of that length around what it needs, inside the padded page."""
        tiles = []
        for cell in cells:
            need = self._aligned(self._need(cell))
            spare = (length - need.length) // 2 // self.multiple_of * self.multiple_of
            start = max(0, min(need.start - spare, self.padded - length))
            tiles.append(AxisTile(Span(start, start + length), cell))
        return tiles

    def _even_cells(self, count: int) -> list[Span]:
        cuts = [self.target * index // count for index in range(count + 1)]
        return [Span(cuts[index], cuts[index + 1]) for index in range(count)]

    def _need(self, cell: Span) -> Span:
        """Return the input pixels that a cell depends on, overlap and all."""
        native = input_span(self.page * self.native_scale, self.target, cell)
        start = native.start // self.native_scale - self.overlap
        stop = -(-native.stop // self.native_scale) + self.overlap
        return Span(max(0, start), min(self.padded, stop))

    def _aligned(self, need: Span) -> Span:
        # A network that folds pixels in squares (pixel-unshuffle) sees another picture from an odd start.
        start = need.start // self.multiple_of * self.multiple_of
        stop = -(-need.stop // self.multiple_of) * self.multiple_of
        return Span(start, stop)

    def _margin(self) -> int:
        """Return about how much longer than its cell a window is, on each side."""
        native = self.page * self.native_scale
        return self.overlap + int(3 * max(native / self.target, 1.0) / self.native_scale) + 1
