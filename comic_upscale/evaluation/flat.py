"""Check whether flat white and black areas stayed exactly white and black."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter

NEIGHBOURHOOD = 9
"""Side, in input pixels, of the square that must be flat for its centre to count as a flat area."""


@dataclass(frozen=True, slots=True)
class FlatGround:
    """Output pixels in flat white or black areas, and how many of them are exactly white or black."""

    white: int
    white_kept: int
    black: int
    black_kept: int


def flat_ground(source: Image.Image, output: Image.Image) -> FlatGround:
    """Count the pixels in flat white and black areas that stayed exactly white and black.

    Args:
        source: the input of the model. A pixel is in a flat white (black) area if all of the 9 x 9 pixels around it
            are 255 (0) in every channel.
        output: the output of the model, larger by any factor.
    """
    darkest, lightest = _extremes(source)
    white = darkest.filter(ImageFilter.MinFilter(NEIGHBOURHOOD)).point(lambda level: 255 * (level == 255))
    black = lightest.filter(ImageFilter.MaxFilter(NEIGHBOURHOOD)).point(lambda level: 255 * (level == 0))
    on_white, on_black = (
        np.asarray(ground.resize(output.size, Image.Resampling.NEAREST)) == 255 for ground in (white, black)
    )
    darkest, lightest = _extremes(output)
    return FlatGround(
        white=int(on_white.sum()),
        white_kept=int((np.asarray(darkest)[on_white] == 255).sum()),
        black=int(on_black.sum()),
        black_kept=int((np.asarray(lightest)[on_black] == 0).sum()),
    )


def _extremes(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Return the darkest and the lightest channel of each pixel, as mode L."""
    darkest, *others = bands = image.split()
    for band in others:
        darkest = ImageChops.darker(darkest, band)
    lightest = bands[0]
    for band in others:
        lightest = ImageChops.lighter(lightest, band)
    return darkest, lightest
