"""How a device measures upscaled pages for the quality gate, while it has their pixels."""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.gate.scores import Grid, shrink
from comic_upscale.gate.texture import BendPlan, is_large_enough
from comic_upscale.imaging.pixels import UInt8Array

_TALLEST = 1.9
"""The most height over width of pages that a device shrinks by the filter: from 2 on, Pillow filters columns first."""


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """The measures of pages of one shape. The gate makes the same on the host, to the bit."""

    grid: Grid
    """How pages are shrunk: by the means of blocks, rounded as Pillow rounds them, or by Pillow's Hamming filter."""
    bends: BendPlan | None
    """The second differences to measure; None for none."""

    @classmethod
    def of(
        cls, source: tuple[int, ...], larger: tuple[int, ...], *, looks_for_texture: bool
    ) -> MeasurePlan | None:
        """Plan the measures.

        Args:
            source: shape of the sources.
            larger: shape of the outputs.
            looks_for_texture: whether the gate looks for invented texture.

        Returns:
            None if only the host shrinks such pages.
        """
        grid = Grid.of(source, larger)
        is_filtered = grid.is_filtered_at_once(larger) and larger[0] <= _TALLEST * larger[1]
        if not grid.is_whole and not is_filtered:
            return None
        bends = BendPlan.of(source, larger) if looks_for_texture and is_large_enough(source) else None
        return cls(grid, bends)

    def shrink(self, page: UInt8Array) -> UInt8Array:
        """Return a page, height x width x C, as the gate shrinks it."""
        return shrink(page, self.grid)
