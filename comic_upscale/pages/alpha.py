"""Colour for pixels that nobody sees."""

from __future__ import annotations

import numpy as np
from PIL import Image

from comic_upscale.pages.page import UInt8Array


def bleed_color(color: UInt8Array, alpha: UInt8Array) -> UInt8Array:
    """Give fully transparent pixels the colour of the visible ones near them.

    Most programs leave black there, which a network would mix into the visible edge as a dark fringe.
    The method is push-pull: colour is averaged down a pyramid, then holes are filled from the level
    above, so that the cost is a small multiple of the number of pixels whatever the size of the holes.

    Args:
        color: uint8, height x width x C.
        alpha: uint8, height x width, 0 transparent.

    Returns:
        uint8, height x width x C: equal to ``color`` where ``alpha`` is above 0. ``color`` itself if
        nothing or everything is transparent.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return color
    return _fill(color, alpha)


def _fill(color: UInt8Array, weight: UInt8Array) -> UInt8Array:
    """Fill where ``weight`` is 0; at least one weight is not."""
    empty = weight == 0
    if not empty.any():
        return color
    height, width = weight.shape
    smaller = _fill(*_halve(color, weight))
    filled = color.copy()
    for channel in range(color.shape[2]):
        # Bilinear and not nearest: no blocks, which the network would take for edges.
        level = Image.fromarray(np.ascontiguousarray(smaller[:, :, channel]))
        larger = level.resize((width, height), Image.Resampling.BILINEAR, (0, 0, width / 2, height / 2))
        np.copyto(filled[:, :, channel], np.asarray(larger), where=empty)
    return filled


def _halve(color: UInt8Array, weight: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
    """Average 2 x 2 blocks by weight: nearly invisible pixels have hardly a colour of their own."""
    height, width = weight.shape
    half = ((height + 1) // 2, (width + 1) // 2)
    total = np.zeros(half, np.uint32)
    largest = np.zeros(half, np.uint8)
    sums = np.zeros((*half, color.shape[2]), np.uint32)
    for y in (0, 1):
        for x in (0, 1):
            part = weight[y::2, x::2]
            rows, columns = part.shape
            total[:rows, :columns] += part
            np.maximum(largest[:rows, :columns], part, out=largest[:rows, :columns])
            sums[:rows, :columns] += color[y::2, x::2] * part[:, :, None].astype(np.uint32)
    divisor = np.maximum(total, 1)[:, :, None]
    return ((sums + divisor // 2) // divisor).astype(np.uint8), largest
