"""Decode a page for a job: with its margins cropped and rotated, where the job asks for that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.margins import find_content
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.target_size import is_strip, turns
from comic_upscale.settings.job import IccMode
from comic_upscale.settings.processing import ProcessingSettings


def decode_page(data: bytes, settings: ProcessingSettings, *, icc: IccMode | None = None) -> Pixels:
    """Decode the file of a page as the settings ask for.

    Args:
        data: the file.
        settings: of the job.
        icc: replaces the one of the settings.

    Raises:
        PageError: as in `decode`.
    """
    pixels = decode(
        data,
        max_pixels=settings.max_pixels,
        gray=settings.gray_mode,
        icc=icc or settings.icc_mode,
        animated=settings.animated,
    )
    if settings.crop_margins:
        pixels = _crop(pixels, settings)
    # Before the network: everything behind it then sees a page that stands upright.
    return turn(pixels) if turns(pixels.width, pixels.height, settings.size) else pixels


def cut_out(page: Pixels, top: int, bottom: int, left: int, right: int) -> Pixels:
    """Return a part of a page, in pixels; the lower and right bounds are not part of it."""
    color = np.ascontiguousarray(page.color[top:bottom, left:right])
    alpha = None if page.alpha is None else np.ascontiguousarray(page.alpha[top:bottom, left:right])
    return replace(page, color=color, alpha=alpha)


def _crop(page: Pixels, settings: ProcessingSettings) -> Pixels:
    top, bottom, left, right = find_content(page)
    screen = settings.screen
    if screen is not None and is_strip(page.width, page.height, screen):
        # The space above and below is the distance to the panels of the strips around it.
        top, bottom = 0, page.height
    if (bottom - top, right - left) == (page.height, page.width):
        return page
    cropped = cut_out(page, top, bottom, left, right)
    share = 100 - 100 * cropped.width * cropped.height / (page.width * page.height)
    note = f"margins cropped: {share:.0f} % of the page, all of it empty paper"
    return replace(cropped, notes=(*cropped.notes, note))


def turn(page: Pixels) -> Pixels:
    """Return a page rotated by a quarter, counter-clockwise: its upper edge is then on the left."""
    color = np.ascontiguousarray(np.rot90(page.color))
    alpha = None if page.alpha is None else np.ascontiguousarray(np.rot90(page.alpha))
    return replace(page, color=color, alpha=alpha)
