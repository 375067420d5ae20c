"""Cut finished pages into leaves for the screen of an e-reader: the halves of a double page, the panels of a strip.

No pixel is lost: the leaves of a page, put together again, are the page. A strip is cut in the middle of the empty rows
between its panels. Strips that follow each other are one strip, because files seldom end where panels do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.decode import decode, read_header
from comic_upscale.imaging.encode import encode, quality_for
from comic_upscale.imaging.formats import find_format
from comic_upscale.imaging.pixels import Pixels, SampleArray
from comic_upscale.imaging.screen import on_white, to_screen
from comic_upscale.imaging.shape import cut_out, turn
from comic_upscale.imaging.shrink import shrink
from comic_upscale.imaging.target_size import find_target, is_spread, is_strip
from comic_upscale.settings.job import FormatName
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.settings.screens import Screen

Side = Literal["", "left", "right"]

_GUTTER_BOUND = 8
"""Levels by which the samples of an empty row may differ. Dithering adds one step of its levels."""
_THINNEST_GUTTER = 4
"""Rows."""
_JPEG_BLOCK = 16
"""Pixels. A JPEG that is cut between its blocks keeps its coefficients."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One screen of a book: a page, or a part of one."""

    data: bytes
    """The file of an image."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    number: int
    """The page that it is, or is a part of, counted from 1. For a part of joined strips, the last of these."""
    part: int = 0
    """Which part of the page, counted from 1; 0 for a whole page, whose file is then unchanged."""
    side: Side = ""
    """Of a double page."""


class LeafCutter:
    """Cuts the pages of a volume, in reading order.

    Args:
        settings: of the job. Without a screen, every page is one leaf.
        right_to_left: whether the right half of a double page comes first.
    """

    def __init__(self, settings: ProcessingSettings, *, right_to_left: bool) -> None:
        self._settings = settings
        self._right_to_left = right_to_left
        self._rest: Pixels | None = None
        self._format: FormatName = "png"
        self._number = self._part = 0

    def add(self, data: bytes, number: int) -> Iterator[Leaf]:
        """Yield the leaves that a page completes.

        Args:
            data: the file of the page.
            number: of the page, counted from 1.

        Raises:
            PageError: the file cannot be decoded or encoded.
        """
        header = read_header(data)
        width, height, screen = header.width, header.height, self._settings.screen
        if screen is not None and is_strip(width, height, screen):
            yield from self._add_strip(self._decode(data), screen, number)
            return
        yield from self.end()
        self._number, self._part = number, 0
        if screen is not None and screen.cuts_spreads and is_spread(width, height):
            yield from self._split(self._decode(data), screen)
        else:
            yield Leaf(data, width, height, number)

    def end(self) -> Iterator[Leaf]:
        """Yield the leaves of a strip that no other follows."""
        screen, rest = self._settings.screen, self._rest
        if rest is None or screen is None:
            return
        self._rest = None
        start = 0
        for cut in find_cuts(rest.color, screen, is_end=True):
            yield self._leaf(cut_out(rest, start, cut, 0, rest.width))
            start = cut

    def _add_strip(self, page: Pixels, screen: Screen, number: int) -> Iterator[Leaf]:
        rest = self._rest
        if rest is not None and (
            rest.color.shape[1:] != page.color.shape[1:] or rest.color.dtype != page.color.dtype
        ):
            yield from self.end()
            rest = None
        self._number, self._part = number, 0
        if rest is not None:
            page = replace(page, color=np.concatenate((rest.color, page.color)))
        start = 0
        for cut in find_cuts(page.color, screen, is_end=False):
            yield self._leaf(cut_out(page, start, cut, 0, page.width))
            start = cut
        self._rest = cut_out(page, start, page.height, 0, page.width) if start < page.height else None

    def _split(self, page: Pixels, screen: Screen) -> Iterator[Leaf]:
        middle = page.width // 2
        if self._format == "jpeg":
            middle = middle // _JPEG_BLOCK * _JPEG_BLOCK
        halves: list[tuple[Side, Pixels]] = [
            ("left", cut_out(page, 0, page.height, 0, middle)),
            ("right", cut_out(page, 0, page.height, middle, page.width)),
        ]
        for side, half in reversed(halves) if self._right_to_left else halves:
            yield self._leaf(half, side)
        if screen.spreads == "both":
            rotated = turn(page)
            target = find_target(rotated.width, rotated.height, replace(screen, spreads="keep")).size
            yield self._leaf(to_screen(shrink(rotated, target), self._settings, self._format))

    def _decode(self, data: bytes) -> Pixels:
        found = find_format(data)
        self._format = "png" if found is None else found.name
        page = decode(data, max_pixels=1 << 62, gray="keep")
        return page if page.alpha is None else replace(page, color=on_white(page), alpha=None)

    def _leaf(self, page: Pixels, side: Side = "") -> Leaf:
        quality = quality_for(
            self._format, self._settings.format, self._settings.quality, lossless=page.lossless
        )
        data = encode(page, format=self._format, quality=quality, settings=self._settings)
        self._part += 1
        return Leaf(data, page.width, page.height, self._number, self._part, side)


def find_cuts(color: SampleArray, screen: Screen, *, is_end: bool) -> list[int]:
    """Return the rows before which a strip is cut, ascending; its height is the last one if the strip ends there.

    Each leaf is at most as high as the screen, if there is an empty row to cut at. A panel that is higher stays whole
    up to twice the height of the screen. A longer one is cut at the height of the screen.

    Args:
        color: of the strip, height x width x channels.
        screen: of the e-reader.
        is_end: whether nothing follows. Otherwise the rows after the last cut wait for the next strip.
    """
    height, limit = len(color), screen.height
    gutters = _find_gutters(color, screen)
    cuts: list[int] = []
    start = 0
    while height - start > limit:
        within = [row for row in gutters if start < row <= start + limit]
        beyond = [row for row in gutters if start + limit < row <= start + 2 * limit]
        if within:
            start = within[-1]
        elif beyond:
            start = beyond[0]
        elif height - start <= 2 * limit:
            # One panel up to the end, which may go on in the next strip.
            break
        else:
            start += limit
        cuts.append(start)
    if is_end and start < height:
        cuts.append(height)
    return cuts


def _find_gutters(color: SampleArray, screen: Screen) -> list[int]:
    """Return the middle of each run of empty rows."""
    step = 0 if screen.levels is None else 255 // (screen.levels - 1)
    bound = (_GUTTER_BOUND + step) * (257 if color.dtype == np.uint16 else 1)
    span: NDArray[np.int64] = np.ptp(color.astype(np.int32), axis=1).max(axis=1)
    empty = np.concatenate(([False], span <= bound, [False]))
    edges = np.flatnonzero(empty[1:] != empty[:-1]).reshape(-1, 2)
    return [int(top + bottom) // 2 for top, bottom in edges if bottom - top >= _THINNEST_GUTTER]
