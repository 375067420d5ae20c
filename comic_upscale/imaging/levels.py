"""Levels: the ink of a gray page becomes black, and its paper white. Scans rarely reach either.

The points are the shades that ink and paper have most often, not the darkest and the lightest ones. So nothing between
ink and paper is clipped: every screentone and every faint line is darker than the paper around it. Half of the grain of
the paper is clipped, which is what makes it white.

A page keeps its shades where this is not certain:

* A shade that is filled in exactly, as a drawing program does, is one that the artist chose, and no paper.
* Above the paper, and below the ink, there must be nothing else: a page with a gray sky and white speech bubbles has
its white already.

`tests/imaging/test_levels.py` has the measurements: gray pages as a scanner gives them come back, and no line of theirs
is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.gray import eight_bits, is_gray, to_gray
from comic_upscale.imaging.pixels import Pixels, SampleArray
from comic_upscale.settings.levels import Levels

DARKEST_PAPER = 160
"""Paper is at least this light. A darker page is a night scene, or a wash."""
LIGHTEST_INK = 80
"""Ink is at most this light. A page without such shades is a pencil drawing, and keeps its shades."""

_LEAST_SHARE = 0.01
"""Of the pixels of a page, ink and paper each have at least this share within `_REACH` shades of their own."""
_REACH = 8
_MOST_BEYOND = 0.01
"""At most this share of the pixels is beyond the grain of the paper or the ink: JPEG adds some beside sharp lines."""
_GRAIN = 14
"""Shades that the grain reaches above the paper, or below the ink."""
_FLAT = 0.5
"""A shade with a larger share of the pixels around it was filled in exactly."""
_ENOUGH = 4
"""A point is moved by at least this many shades, or left."""


@dataclass(frozen=True, slots=True)
class Points:
    """The shades of 8 bits that become black and white."""

    black: int
    white: int

    def __str__(self) -> str:
        """Return the points for a note: ``black from 18, white from 229``."""
        return f"black from {self.black}, white from {self.white}"


def apply_levels(page: Pixels, levels: Levels) -> Pixels:
    """Return a gray page with its levels; a page in colour unchanged.

    Args:
        page: decoded.
        levels: the points, or ``auto``.
    """
    color = page.color
    if color.shape[2] != 1 and not is_gray(color, page.alpha):
        return page
    if levels.black is None or levels.white is None:
        points = find_points(color if color.shape[2] == 1 else to_gray(color), page.alpha)
    else:
        points = Points(levels.black, levels.white)
    if points is None or (points.black, points.white) == (0, 255):
        return page
    note = f"levels: {points}"
    return replace(page, color=_stretch(color, points), notes=(*page.notes, note))


def find_points(color: SampleArray, alpha: SampleArray | None = None) -> Points | None:
    """Return the shades of the ink and of the paper of a gray page.

    Args:
        color: height x width x 1, of 8 or 16 bits.
        alpha: height x width; transparent pixels do not count.

    Returns:
        The points; 0 and 255 for those that need no change. None if neither does.
    """
    shades = eight_bits(color)[:, :, 0]
    counts = np.bincount(shades.ravel() if alpha is None else shades[alpha > 0], minlength=256)
    total = int(counts.sum())
    if not total:
        return None
    share = counts / total
    white = _outermost_peak(share, DARKEST_PAPER)
    if white is None and share[256 - _ENOUGH :].sum() < _LEAST_SHARE:
        # Where neither paper nor white is found, a black point alone would only make the page darker.
        return None
    # The same, seen from the dark end.
    black = _outermost_peak(share[::-1], 255 - LIGHTEST_INK)
    points = Points(
        0 if black is None or 255 - black < _ENOUGH else 255 - black,
        255 if white is None or white > 255 - _ENOUGH else white,
    )
    return None if points == Points(0, 255) else points


def _outermost_peak(share: NDArray[np.float64], first: int) -> int | None:
    """Return the lightest shade from ``first`` on that many pixels have; None if it is not that of a paper."""
    # Encoders of JPEG leave gaps between shades, and scanners ripples.
    smooth = np.convolve(share, np.ones(5) / 5, "same")
    for shade in range(255, first - 1, -1):
        around = slice(max(0, shade - _REACH), shade + _REACH + 1)
        if smooth[shade] < smooth[around].max() or share[around].sum() < _LEAST_SHARE:
            continue
        peak = int(np.argmax(share[max(0, shade - 2) : shade + 3])) + max(0, shade - 2)
        is_flat = share[peak] > _FLAT * share[around].sum()
        if is_flat or share[shade + _GRAIN + 1 :].sum() > _MOST_BEYOND:
            return None
        return shade
    return None


def _stretch(color: SampleArray, points: Points) -> SampleArray:
    """Return samples with new points; by a table, since there are few shades."""
    top = int(np.iinfo(color.dtype).max)
    unit = top / 255
    shades = np.arange(top + 1, dtype=np.float64)
    table = (shades - points.black * unit) * (255 / (points.white - points.black))
    stretched: SampleArray = np.rint(table.clip(0, top)).astype(color.dtype)[color]
    return stretched
