"""Rows that a network need not look at: in flat gutters and bands they all come out the same.

A network of 3x3 convolutions sees ``reach`` pixels each way. So of a run of equal rows longer than twice the
reach, the rows in the midst see the same and come out the same: the run is folded to ``2 * reach + 1`` rows before
the network, and what came of the row in the midst is repeated behind it. The numbers are those of the whole page.

::

    rows     a b c c c c c c c c c d e        reach 2
    folded   a b c c c c c d e                two see a or b, one is in the midst, two see d or e
    out      A B C D E E E E E F G H I        the one in the midst stands for five

Columns could be folded as well, but putting them back costs a scattered copy, and pages hold few that are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

LEAST_SAVED = 0.05
"""Share of the rows below which folding is not worth putting them back in their places."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Which rows of a window stand for which.

    ``rows`` has, for each one of the window, the place in the folded window of the one that stands for it
    (int64, never falling).
    """

    rows: torch.Tensor

    def folded(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the windows, N x height x width x C, without the rows that others stand for."""
        first = torch.ones(len(self.rows), dtype=torch.bool)
        first[1:] = self.rows[1:] != self.rows[:-1]
        return windows.index_select(1, first.nonzero().flatten())

    def unfolded(self, native: torch.Tensor, scale: int) -> torch.Tensor:
        """Return what the network made, N x C x height*scale x width*scale, with every row in its place."""
        return native.index_select(2, (self.rows[:, None] * scale + torch.arange(scale)).flatten())


def find_fold(windows: torch.Tensor, reach: int) -> Fold | None:
    """Return how windows can be folded, all alike; None where that would save little.

    Args:
        windows: N x height x width x C.
        reach: how many pixels away the network sees, itself not counted.
    """
    height, needed = windows.shape[1], 2 * reach + 1
    if height <= needed:
        return None
    lines = windows.movedim(1, 0)
    equal = (lines[1:] == lines[:-1]).flatten(1).all(dim=1)
    sums = torch.cat((torch.zeros(1, dtype=torch.int64), equal.cumsum(0)))
    dropped = torch.zeros(height, dtype=torch.bool)
    # A row and the one before it see the same where so many neighbours are equal on both sides.
    dropped[reach + 1 : height - reach] = sums[needed:] - sums[:-needed] == needed
    if int(dropped.sum()) < LEAST_SAVED * height:
        return None
    return Fold((~dropped).cumsum(0) - 1)
