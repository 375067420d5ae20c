"""Whether a network looks at all of what it is given at once, so that a page in tiles comes out other than whole.

Squeeze-and-excitation, as in Real-CUGAN and waifu2x's cunet, multiplies every channel by a number that is made of
the mean over the whole input. Normalization over a page, and attention over all of it, do the like.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from comic_upscale.imaging.pixels import UInt8Array

Run: TypeAlias = Callable[[UInt8Array], NDArray[Any]]
"""Runs a network: height x width x C to C x height*scale x width*scale, floats of 0..1."""

SIDE = 64
"""Pixels of the side of the picture that is tried, at least."""
FAR = 32
"""Pixels between what is changed and what is compared: the overlap of tiles."""
_EDGE = (SIDE - FAR) // 2
"""Pixels of both strips, at opposite sides of the picture."""
_SEEN = 1.0
"""Levels by which the far strip moves where a network looks at it all. Of six networks with squeeze-and-excitation
(Real-CUGAN and cunet) the least was 8.9; rounding alone moves it by half a level."""


def tried_side(minimum: int, multiple_of: int) -> int:
    """Return the side of a picture to try a network with: at least `SIDE`, and as the network takes it."""
    return -(-max(SIDE, minimum) // multiple_of) * multiple_of


def sees_far(run: Run, channels: int, side: int = SIDE) -> bool:
    """Tell whether what a network makes at one side of a picture depends on what is drawn at the other.

    The picture is given to the network twice, with a white strip and with a black one at its right; the left
    side is compared.

    Args:
        run: the network.
        channels: 1 or 3.
        side: of the picture in pixels, at least `SIDE`.
    """
    picture = tried_picture(side, channels)
    made = []
    for level in (255, 0):
        picture[:, side - _EDGE :] = level
        result = run(picture)
        factor = result.shape[2] // side
        made.append(np.clip(result[:, :, : _EDGE * factor].astype(np.float64), 0, 1))
    return bool(255 * np.abs(made[0] - made[1]).max() > _SEEN)


def tried_picture(side: int, channels: int) -> UInt8Array:
    """Return a picture of squares, each of noise around black or white: height x width x C."""
    rng = np.random.default_rng(1)
    squares = rng.integers(0, 2, (-(-side // 8), -(-side // 8), channels))
    drawn = squares.repeat(8, axis=0).repeat(8, axis=1)[:side, :side] * 204
    return (drawn + rng.integers(0, 52, drawn.shape)).astype(np.uint8)
