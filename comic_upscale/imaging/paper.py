"""Make yellowed paper neutral.

Ink lies on the paper, so the paper's colour is a factor in every pixel. Dividing by it makes the paper neutral, and
black stays black. The brightest channel of the paper keeps its brightness: the page becomes neutral, not lighter.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.gray import colour_of_blocks, eight_bits, to_gray
from comic_upscale.imaging.pixels import Pixels, SampleArray

LEAST_CAST, MOST_CAST = 3.0, 80.0
"""The channels of yellowed paper differ by this much, in grey levels of 8 bits. More is a colour that was printed."""
DARKEST_PAPER = 140
"""The brightest channel of paper is at least this bright."""

_LEAST_SHARE = 0.05
"""Paper has at least this share of the page."""
_REACH = 12
_ENOUGH_PIXELS = 1_000_000
_RIPPLE = 2.0
_LARGEST_BLOCK, _FEW_BLOCKS = 36.0, 20.0
"""A page whose paper was made neutral is gray if no block of 8 x 8 pixels has more colour than the first, and one in a
thousand more than the second. Paper yellows unevenly, so these are larger than the bounds of ``gray.py``."""


def find_paper(color: SampleArray, alpha: SampleArray | None = None) -> NDArray[np.float64] | None:
    """Return the colour of yellowed paper, in levels of 8 bits; None if the page has none.

    Args:
        color: height x width x 3.
        alpha: height x width; transparent pixels do not count.
    """
    # Some of the pixels of a large page tell as much as all.
    step = max(1, round((color.shape[0] * color.shape[1] / _ENOUGH_PIXELS) ** 0.5))
    rgb = eight_bits(color[::step, ::step])
    pixels = rgb.reshape(-1, 3) if alpha is None else rgb[alpha[::step, ::step] > 0]
    if not len(pixels):
        return None
    brightest = pixels.max(axis=1)
    share = np.bincount(brightest, minlength=256) / len(brightest)
    smooth = np.convolve(share, np.ones(5) / 5, "same")
    shade = DARKEST_PAPER + int(np.argmax(smooth[DARKEST_PAPER:]))
    is_paper = (brightest >= shade - _REACH) & (brightest <= shade + _REACH)
    if is_paper.mean() < _LEAST_SHARE:
        return None
    found = np.median(pixels[is_paper], axis=0).astype(np.float64)
    red, green, blue = found
    # Paper yellows and browns: it never turns blue, green or pink.
    is_yellow = red >= green - _RIPPLE and green >= blue - _RIPPLE and red - blue >= red - green
    return found if is_yellow and LEAST_CAST <= np.ptp(found) <= MOST_CAST else None


def neutralise_paper(page: Pixels, *, gray: bool) -> Pixels:
    """Return a page whose yellowed paper is neutral; any other page unchanged.

    Args:
        page: decoded.
        gray: whether a page without another colour gets one channel.
    """
    if page.color.shape[2] != 3:
        return page
    paper = find_paper(page.color, page.alpha)
    if paper is None:
        return page
    top = np.iinfo(page.color.dtype).max
    levels = np.arange(top + 1, dtype=np.float64)
    color = np.empty_like(page.color)
    for channel, factor in enumerate(paper.max() / paper):
        table = np.rint((levels * factor).clip(0, top)).astype(color.dtype)
        color[:, :, channel] = table[page.color[:, :, channel]]
    was = ", ".join(f"{level:.0f}" for level in paper)
    page = replace(page, color=color, notes=(*page.notes, f"paper of the colour {was} made neutral"))
    # One channel cannot have a profile for RGB. The paper of such a page is neutral, but it keeps its channels.
    if gray and page.icc_profile is None and has_no_colour_left(color):
        return replace(page, color=to_gray(color))
    return page


def has_no_colour_left(color: SampleArray) -> bool:
    """Return whether an RGB page whose paper was made neutral has no other colour."""
    spread = colour_of_blocks(color, 8)
    return float(spread.max()) <= _LARGEST_BLOCK and float(np.quantile(spread, 0.999)) <= _FEW_BLOCKS
