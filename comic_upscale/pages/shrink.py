"""Make a page smaller, where it is larger than asked: antialiased Lanczos, no network."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
from PIL import Image

from comic_upscale.pages.page import Pixels, UInt8Array


def shrink(page: Pixels, size: tuple[int, int]) -> Pixels:
    """Return a page at a smaller size; one that has that size already is returned as it is.

    Args:
        page: with the colour under its transparency taken from what is visible, so that no hidden one shows.
        size: (width, height) in pixels, neither above the page's.
    """
    if size == (page.width, page.height):
        return page
    planes = [_resized(page.color[:, :, channel], size) for channel in range(page.color.shape[2])]
    alpha = None if page.alpha is None else _resized(page.alpha, size)
    return replace(page, color=np.dstack(planes), alpha=alpha)


def _resized(plane: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    image = Image.fromarray(np.ascontiguousarray(plane))
    return cast(UInt8Array, np.asarray(image.resize(size, Image.Resampling.LANCZOS)))
