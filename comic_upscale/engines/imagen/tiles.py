"""How a page is cut into calls of the service. Sizes only, so that a run can be quoted without any page."""

from __future__ import annotations

from comic_upscale.engines.feathering import Windows, plan_by_area

FACTORS = (2, 3, 4)
"""The factors of the service."""
MOST_OUTPUT = 17_000_000
"""The most pixels of an answer."""


def choose_factor(size: tuple[int, int], target: tuple[int, int]) -> int:
    """Return the smallest factor that reaches the target, or the largest; sizes as (width, height)."""
    enough = (each for each in FACTORS if each * size[0] >= target[0] and each * size[1] >= target[1])
    return next(enough, FACTORS[-1])


def plan_tiles(size: tuple[int, int], factor: int, overlap: int) -> Windows:
    """Return the fewest tiles that the service accepts, unless the file of a tile has too many bytes.

    Args:
        size: (width, height) of the page in pixels.
        factor: from `choose_factor`.
        overlap: of tiles, in pixels of the page.
    """
    return plan_by_area((size[1], size[0]), MOST_OUTPUT // factor**2, overlap)
