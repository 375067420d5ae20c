"""Compute equal rows only once, as they occur in flat gutters and bands.

A network of 3x3 convolutions sees ``reach`` pixels in each direction. In a run of equal rows longer than twice the
reach, the rows in the middle see the same input and give the same output. So the run is folded to ``2 * reach + 1``
rows before the network, and the output of the middle row is repeated afterwards. The result equals that of the whole
page.

::

    rows     a b c c c c c c c c c d e        reach 2
    folded   a b c c c c c d e                two see a or b, one is in the middle, two see d or e
    out      A B C D E E E E E F G H I        the middle row is repeated for five rows

Columns could be folded as well. But restoring them needs a scattered copy, and few columns of a page are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

LEAST_SAVED = 0.05
"""Share of rows saved below which folding is not worth the cost of restoring them."""


@dataclass(frozen=True, slots=True)
class Fold:
    """The mapping from the rows of a window to the rows of the folded window.

    ``rows`` has, for each row of the window, the index of its row in the folded window (int64, non-decreasing).
    """

    rows: torch.Tensor

    def apply(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the windows, N x height x width x C, without the repeated rows."""
        first = torch.ones(len(self.rows), dtype=torch.bool)
        first[1:] = self.rows[1:] != self.rows[:-1]
        return windows.index_select(1, first.nonzero().flatten())

    def restore(self, native: torch.Tensor, scale: int) -> torch.Tensor:
        """Return the network's output, N x C x height*scale x width*scale, with all rows restored."""
        return native.index_select(2, (self.rows[:, None] * scale + torch.arange(scale)).flatten())


def find_fold(windows: torch.Tensor, reach: int) -> Fold | None:
    """Return how to fold the windows, the same for all; None if that would save little.

    Args:
        windows: N x height x width x C.
        reach: the receptive radius of the network in pixels, without the centre.
    """
    height, needed = windows.shape[1], 2 * reach + 1
    if height <= needed:
        return None
    lines = windows.movedim(1, 0)
    equal = (lines[1:] == lines[:-1]).flatten(1).all(dim=1)
    sums = torch.cat((torch.zeros(1, dtype=torch.int64), equal.cumsum(0)))
    dropped = torch.zeros(height, dtype=torch.bool)
    # A row and the previous one see the same input if this many neighbours on both sides are equal.
    dropped[reach + 1 : height - reach] = sums[needed:] - sums[:-needed] == needed
    if int(dropped.sum()) < LEAST_SAVED * height:
        return None
    return Fold((~dropped).cumsum(0) - 1)
