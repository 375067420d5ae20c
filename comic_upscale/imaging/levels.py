"""Levels: the ink of a gray page becomes black, and its paper white. Scans rarely reach either.

The points are the shades that ink and paper have most often, not the darkest and the lightest ones. So nothing between
ink and paper is clipped: every screentone and every faint line is darker than the paper around it. Half of the grain of
the paper is clipped, which is what makes it white.

A page keeps its shades where this is not certain:

* A shade that is filled in exactly, as a drawing program does, is one that the artist chose, and no paper.
* Above the paper, and below the ink, there must be nothing else: a page with a gray sky and white speech bubbles has
its white already.

All pages of a volume may get the same points: the medians of those that its pages have. A page that has a white of its
own, such as a note of a translator among scanned pages, keeps its shades.

`tests/imaging/test_levels.py` has the measurements: gray pages as a scanner gives them come back, and no line of theirs
is lost.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
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
_OWN_WHITE = 0.05
"""A page that has this share of its pixels as white as can be was not scanned with a paper that is gray."""
_LEAST_AGREEMENT = 0.25
"""A volume gets a point only if at least this fraction of its gray pages have it: one in four."""


@dataclass(frozen=True, slots=True)
class Points:
    """The shades of 8 bits that become black and white.

    Raises:
        ValueError: they are not ``0 <= black < white <= 255``.
    """

    black: int
    white: int

    def __post_init__(self) -> None:
        """Check the points: some come from files."""
        if not 0 <= self.black < self.white <= 255:
            raise ValueError(f"the black point must be below the white point, both 0 to 255, not {self}")

    def __str__(self) -> str:
        """Return the points for a note: ``black from 18, white from 229``."""
        return f"black from {self.black}, white from {self.white}"


def apply_levels(page: Pixels, levels: Levels, of_volume: Points | None = None) -> Pixels:
    """Return a gray page with its levels; a page in colour unchanged.

    Args:
        page: decoded.
        levels: the points, or where to find them.
        of_volume: the points of the volume of the page, for levels per volume; None to leave the page as it is.
    """
    gray = _as_gray(page)
    if gray is None:
        return page
    where = ""
    if levels.per_volume:
        points, where = of_volume, ", as in the whole volume"
        if points is not None and points.white < 255 and _has_white(gray, page.alpha):
            return page
    elif levels.black is None or levels.white is None:
        points = find_points(gray, page.alpha)
    else:
        points = Points(levels.black, levels.white)
    if points is None or (points.black, points.white) == (0, 255):
        return page
    color = page.color
    note = f"levels: {points}{where}"
    return replace(page, color=_stretch(color, points), notes=(*page.notes, note))


def find_points(color: SampleArray, alpha: SampleArray | None = None) -> Points | None:
    """Return the shades of the ink and of the paper of a gray page.

    Args:
        color: height x width x 1, of 8 or 16 bits.
        alpha: height x width; transparent pixels do not count.

    Returns:
        The points; 0 and 255 for those that need no change. None if neither does.
    """
    share = _shares(color, alpha)
    if share is None:
        return None
    white = _outermost_peak(share, DARKEST_PAPER)
    if white is None and share[256 - _ENOUGH :].sum() < _LEAST_SHARE:
        # Where neither paper nor white is found, a black point alone would only make the page darker.
        return None
    # The same, seen from the dark end.
    black = _outermost_peak(share[::-1], 255 - LIGHTEST_INK)
    points = _points(None if black is None else 255 - black, white)
    return None if points == Points(0, 255) else points


@dataclass(frozen=True, slots=True)
class PageShades:
    """What a gray page tells about its volume."""

    ink: int | None
    """The shade of the ink; None if it is not certain."""
    paper: int | None
    """The shade of the paper; None if it is not certain."""


def find_shades(page: Pixels) -> PageShades | None:
    """Return the shades of the ink and of the paper of a page; None for one in colour, or with a white of its own."""
    gray = _as_gray(page)
    share = None if gray is None else _shares(gray, page.alpha)
    if share is None:
        return None
    paper = _outermost_peak(share, DARKEST_PAPER)
    if paper is None and share[254:].sum() >= _OWN_WHITE:
        return None
    ink = _outermost_peak(share[::-1], 255 - LIGHTEST_INK)
    return PageShades(None if ink is None else 255 - ink, paper)


def points_of_volume(pages: Iterable[PageShades]) -> Points | None:
    """Return the points for all gray pages of a volume, from some of them; None if the volume needs none."""
    pages = list(pages)
    papers = [page.paper for page in pages if page.paper is not None]
    inks = [page.ink for page in pages if page.ink is not None]
    if not papers or len(papers) < _LEAST_AGREEMENT * len(pages):
        # Without a paper, a black point alone would only make the pages darker.
        return None
    ink = statistics.median_low(inks) if inks and len(inks) >= _LEAST_AGREEMENT * len(pages) else None
    points = _points(ink, statistics.median_low(papers))
    return None if points == Points(0, 255) else points


def _points(ink: int | None, paper: int | None) -> Points:
    return Points(
        0 if ink is None or ink < _ENOUGH else ink,
        255 if paper is None or paper > 255 - _ENOUGH else paper,
    )


def _as_gray(page: Pixels) -> SampleArray | None:
    """Return the only channel of a gray page; None for a page in colour."""
    if page.color.shape[2] == 1:
        return page.color
    return to_gray(page.color) if is_gray(page.color, page.alpha) else None


def _shares(color: SampleArray, alpha: SampleArray | None) -> NDArray[np.float64] | None:
    """Return the share of each shade of 8 bits among the visible pixels; None if there are none."""
    shades = eight_bits(color)[:, :, 0]
    counts = np.bincount(shades.ravel() if alpha is None else shades[alpha > 0], minlength=256)
    total = int(counts.sum())
    return counts / total if total else None


def _has_white(color: SampleArray, alpha: SampleArray | None) -> bool:
    share = _shares(color, alpha)
    return share is not None and float(share[254:].sum()) >= _OWN_WHITE


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
