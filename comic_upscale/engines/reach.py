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

IN_TILES = "cut into tiles, though this network looks at a whole page at once: tones may differ between tiles"
"""The note of a page that such a network was not given whole."""
MEMORY_FOR_WHOLE = 0.5
"""The part of the free memory that a whole page may take on a CPU, for a network that is better given whole pages."""

SIDE = 64
"""Pixels of the side of the picture that is tried, at least."""
FAR = 32
"""Pixels between what is changed and what is compared: the overlap of tiles."""
_EDGE = (SIDE - FAR) // 2
"""Pixels of both strips, at opposite sides of the picture."""
_SEEN = 1.0
"""Levels by which the far strip moves where a network looks at it all. Of six networks with squeeze-and-excitation
(Real-CUGAN and cunet) the least was 8.9; rounding alone moves it by half a level."""


def tiles_warning(why: str) -> str:
    """Return what a user should know before pages are cut into tiles for a network that looks at whole pages.

    Args:
        why: they are cut, and what to do about it: a sentence's end.
    """
    return (
        f"this network looks at a whole page at once, so pages in tiles come out other than whole ones: {why}"
    )


def tried_side(minimum: int, multiple_of: int) -> int:
    """Return the side of a picture to try a network with: at least `SIDE`, and as the network takes it."""
    return -(-max(SIDE, minimum) // multiple_of) * multiple_of


def sees_far(run: Run, channels: int, size: tuple[int, int] = (SIDE, SIDE)) -> bool:
    """Tell whether what a network makes at one side of a picture depends on what is drawn at the other.

    The picture is given to the network twice, with a white strip and with a black one at its right; the left
    side is compared.

    Args:
        run: the network.
        channels: 1 or 3.
        size: (height, width) of the picture in pixels, its width at least `SIDE`.
    """
    picture = tried_picture(size, channels)
    made = []
    for level in (255, 0):
        picture[:, size[1] - _EDGE :] = level
        result = run(picture)
        factor = result.shape[2] // size[1]
        made.append(np.clip(result[:, :, : _EDGE * factor].astype(np.float64), 0, 1))
    return bool(255 * np.abs(made[0] - made[1]).max() > _SEEN)


def tried_picture(size: tuple[int, int], channels: int) -> UInt8Array:
    """Return a picture of squares, each of noise around black or white: height x width x C."""
    rng = np.random.default_rng(1)
    squares = rng.integers(0, 2, (-(-size[0] // 8), -(-size[1] // 8), channels))
    drawn = squares.repeat(8, axis=0).repeat(8, axis=1)[: size[0], : size[1]] * 204
    return (drawn + rng.integers(0, 52, drawn.shape)).astype(np.uint8)
