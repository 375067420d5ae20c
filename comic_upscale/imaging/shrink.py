"""Make a page smaller, where it is larger than asked: antialiased Lanczos, no network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from comic_upscale.imaging.pixels import Pixels, SampleArray, UInt8Array


def shrink(page: Pixels, size: tuple[int, int]) -> Pixels:
    """Return a page at a smaller size; one that has that size already is returned as it is.

    Args:
        page: with the colour under its transparency taken from what is visible, so that no hidden one shows.
        size: (width, height) in pixels, neither above the page's.
    """
    if size == (page.width, page.height):
        return replace(page, solid=None, faint=None, tone=None)
    planes = [_resized(page.color[:, :, channel], size) for channel in range(page.color.shape[2])]
    alpha = None if page.alpha is None else _resized(page.alpha, size)
    # Lanczos keeps flat areas and averages by itself, and a pixel covers more of the source than the maps know.
    return replace(page, color=np.dstack(planes), alpha=alpha, solid=None, faint=None, tone=None)


def _resized(plane: SampleArray, size: tuple[int, int]) -> SampleArray:
    if plane.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(plane))
        small: UInt8Array = np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.uint8)
        return small
    deep = Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(np.rint(np.asarray(deep).clip(0, 65535)), np.uint16)
