"""Prepare pages for comparison: flatten them, reduce them to eight bits, and find the region with the most detail."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.errors import PageError
from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.pixels import Pixels, SampleArray, UInt8Array

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; right and bottom are exclusive."""

WHITE, BLACK = 255, 0

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def as_pixels(image: Image.Image) -> Pixels:
    """Return a Pillow image as a page.

    Args:
        image: an image of mode L, LA, RGB or RGBA; other modes are converted to RGB.
    """
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    samples = np.atleast_3d(np.asarray(image))
    if image.mode in ("LA", "RGBA"):
        return Pixels(samples[:, :, :-1], samples[:, :, -1])
    return Pixels(samples)


def is_transparent(page: Pixels) -> bool:
    """Return whether any pixel of a page is transparent."""
    return page.alpha is not None and bool((page.alpha < np.iinfo(page.alpha.dtype).max).any())


def flatten(page: Pixels, ground: int) -> UInt8Array:
    """Flatten a page onto a background.

    Args:
        page: a page of any bit depth.
        ground: gray level of the background, 0 to 255; ignored without transparency.

    Returns:
        uint8, height x width x 1 or 3.
    """
    color = eight_bits(page.color)
    if page.alpha is None:
        return color
    alpha = eight_bits(page.alpha)[:, :, None].astype(np.float32) / 255
    flattened: UInt8Array = np.rint(color * alpha + ground * (1 - alpha)).astype(np.uint8)
    return flattened


def as_image(samples: UInt8Array) -> Image.Image:
    """Return uint8 height x width x 1 or 3 as a Pillow image of mode L or RGB."""
    return Image.fromarray(np.ascontiguousarray(samples.squeeze(2) if samples.shape[2] == 1 else samples))


def luma(samples: UInt8Array) -> NDArray[np.float32]:
    """Return the luma of BT.601, full range, unrounded: float32 0..255, height x width.

    Args:
        samples: uint8, height x width x 1 or 3.
    """
    if samples.shape[2] == 1:
        return samples[:, :, 0].astype(np.float32)
    # Rounding makes white slightly larger than 255.
    levels: NDArray[np.float32] = np.clip(samples.astype(np.float32) @ _LUMA, 0, 255)
    return levels


def detail(samples: SampleArray) -> NDArray[np.float32]:
    """Return the amount of detail at each pixel: the magnitude of the luma's gradient, height x width."""
    if min(samples.shape[:2]) < 2:
        return np.zeros(samples.shape[:2], np.float32)
    rows, columns = np.gradient(luma(eight_bits(samples)))
    length: NDArray[np.float32] = np.hypot(rows, columns)
    return length


def busiest_region(energy: NDArray[np.float32], size: tuple[int, int]) -> Box:
    """Return the region of a given size with the largest sum.

    Args:
        energy: the value of each pixel, height x width.
        size: (width, height) of the region; limited to the page.
    """
    page_height, page_width = energy.shape
    width, height = min(size[0], page_width), min(size[1], page_height)
    # Sums over all regions at once, from the sums of everything above and to the left of each pixel.
    sums = np.pad(energy.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    regions = (
        sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    )
    top, left = (int(index) for index in np.unravel_index(regions.argmax(), regions.shape))
    return left, top, left + width, top + height


def check_transparency(one: Pixels, other: Pixels) -> None:
    """Refuse to compare a transparent page with one that is not.

    Raises:
        PageError: ``"transparency"``.
    """
    if is_transparent(one) != is_transparent(other):
        raise PageError(
            "transparency",
            "Only one of the two images is transparent, so they cannot be compared. Flatten both onto the same "
            "background first",
        )
