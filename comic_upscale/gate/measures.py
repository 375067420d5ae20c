"""How a device measures upscaled pages for the quality gate, while it has their pixels."""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.gate.reduce import reduce_by
from comic_upscale.gate.scores import Grid
from comic_upscale.gate.texture import BendPlan, is_large_enough
from comic_upscale.imaging.pixels import UInt8Array


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """The measures of pages of one shape. The gate makes the same on the host, to the bit."""

    size: tuple[int, int]
    """(columns, rows) of the shrunk page."""
    block: tuple[int, int]
    """(width, height) of the pixels that make one of the shrunk page: their mean, rounded as Pillow rounds it."""
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
            None if the pages are shrunk by a filter and not by means: only the host does that.
        """
        grid = Grid.of(source, larger)
        if not grid.is_whole:
            return None
        bends = BendPlan.of(source, larger) if looks_for_texture and is_large_enough(source) else None
        return cls(grid.size, grid.block(larger), bends)

    def shrink(self, page: UInt8Array) -> UInt8Array:
        """Return a page, height x width x C, as the gate shrinks it."""
        return reduce_by(page, self.size, self.block)
