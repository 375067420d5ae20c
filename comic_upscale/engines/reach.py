"""Test whether a network looks at its whole input at once, so that a page in tiles differs from the whole page.

Squeeze-and-excitation, as in Real-CUGAN and waifu2x's cunet, multiplies every channel by a number computed from the
mean over the whole input. Normalization and attention over the whole page have the same effect.
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
"""The note of a page that was cut into tiles for such a network."""
MEMORY_FOR_WHOLE = 0.5
"""The share of the free memory that a whole page may use on a CPU with such a network."""

SIDE = 64
"""The smallest side of the test image, in pixels."""
FAR = 32
"""Pixels between the changed strip and the compared strip: the overlap of tiles."""
_EDGE = (SIDE - FAR) // 2
"""Width in pixels of the two strips, at opposite sides of the test image."""
_SEEN = 1.0
"""Change of the far strip, in levels, above which a network looks at the whole input. Of six networks with
squeeze-and-excitation (Real-CUGAN and cunet) the smallest change was 8.9. Rounding alone changes it by half a level."""


def tiles_warning(why: str) -> str:
    """Return the warning for the user that pages are cut into tiles for a network that looks at whole pages.

    Args:
        why: the reason or what to do, as the end of a sentence.
    """
    return f"this network looks at a whole page at once, so pages in tiles differ from whole pages: {why}"


def side_of_test_image(minimum: int, multiple_of: int) -> int:
    """Return the side of the test image for a network: at least `SIDE`, and a size that the network accepts."""
    return -(-max(SIDE, minimum) // multiple_of) * multiple_of


def sees_far(run: Run, channels: int, size: tuple[int, int] = (SIDE, SIDE)) -> bool:
    """Return whether the output of a network at one side of an image depends on the other side of the input.

    The network gets the test image twice, with a white and with a black strip at the right. The left sides of the
    two outputs are compared.

    Args:
        run: the network.
        channels: 1 or 3.
        size: (height, width) of the image in pixels, with a width of at least `SIDE`.
    """
    image = draw_test_image(size, channels)
    made = []
    for level in (255, 0):
        image[:, size[1] - _EDGE :] = level
        result = run(image)
        factor = result.shape[2] // size[1]
        made.append(np.clip(result[:, :, : _EDGE * factor].astype(np.float64), 0, 1))
    return bool(255 * np.abs(made[0] - made[1]).max() > _SEEN)


def draw_test_image(size: tuple[int, int], channels: int) -> UInt8Array:
    """Return the test image, squares of noise around black or white: height x width x C."""
    rng = np.random.default_rng(1)
    squares = rng.integers(0, 2, (-(-size[0] // 8), -(-size[1] // 8), channels))
    drawn = squares.repeat(8, axis=0).repeat(8, axis=1)[: size[0], : size[1]] * 204
    return (drawn + rng.integers(0, 52, drawn.shape)).astype(np.uint8)
