"""Shrink a page that is larger than requested: antialiased Lanczos, without the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from comic_upscale.imaging.pixels import Pixels, SampleArray, UInt8Array


def shrink(page: Pixels, size: tuple[int, int]) -> Pixels:
    """Return a page at a smaller size. A page that already has this size is returned unchanged.

    Args:
        page: fully transparent pixels have colours of visible ones, so that no hidden colour shows.
        size: (width, height) in pixels, neither larger than the page's.
    """
    if size == (page.width, page.height):
        return replace(page, solid=None, faint=None, tone=None)
    planes = [_resize(page.color[:, :, channel], size) for channel in range(page.color.shape[2])]
    alpha = None if page.alpha is None else _resize(page.alpha, size)
    # Lanczos preserves flat areas and averages, and each pixel covers more of the source than the maps allow for.
    return replace(page, color=np.dstack(planes), alpha=alpha, solid=None, faint=None, tone=None)


def _resize(plane: SampleArray, size: tuple[int, int]) -> SampleArray:
    if plane.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(plane))
        small: UInt8Array = np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.uint8)
        return small
    deep = Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(np.rint(np.asarray(deep).clip(0, 65535)), np.uint16)
