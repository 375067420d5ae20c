"""Shrink a page by whole numbers: the mean of each block of pixels, to the bit as Pillow's ``Image.reduce`` rounds it.

Pillow first copies a page of three channels into pixels of four bytes, which takes longer than the means, except for
blocks of four pixels. By other numbers, Pillow's filter shrinks a page. Its weights are here for devices.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image

from comic_upscale.imaging.pixels import UInt8Array

_BYTES = 1 << 18
"""The bytes of a page that are summed at once: their sums stay in the processor's cache."""
MOST_COPIED = 48_000_000
"""The most samples of a page that Pillow may copy."""


WEIGHT_BITS = 22
"""Pillow's weights are whole numbers with this many bits after the point."""
_FILTER_PARTS = (float(np.float32(0.54)), float(np.float32(0.46)))


def reduce_by(pixels: UInt8Array, size: tuple[int, int], block: tuple[int, int]) -> UInt8Array:
    """Return the means of blocks, from the upper left corner of a page.

    Args:
        pixels: height x width x C.
        size: (columns, rows) of the result.
        block: (width, height) of a block, in pixels.
    """
    (columns, rows), (across, down) = size, block
    channels = pixels.shape[2]
    if block == (2, 2) and pixels.size <= MOST_COPIED:
        used = np.ascontiguousarray(pixels[: rows * down, : columns * across])
        image = Image.fromarray(used[:, :, 0] if channels == 1 else used)
        return np.asarray(image.reduce(2)).reshape(rows, columns, channels)
    used = pixels[: rows * down, : columns * across].reshape(rows, down, columns * across * channels)
    # One column for each channel: a product with it sums a block's samples of this channel.
    of_channel = np.tile(np.eye(channels, dtype=np.float32), (across, 1))
    sums = np.empty((rows, columns * channels), np.float32)
    # The narrowest type that holds the sum of a column is the fastest.
    narrow = np.min_scalar_type(255 * down)
    step = max(1, _BYTES // (down * used.shape[2]))
    for first in range(0, rows, step):
        tall = used[first : first + step].sum(axis=1, dtype=narrow)
        samples = tall.astype(np.float32).reshape(-1, across * channels)
        np.matmul(samples, of_channel, out=sums[first : first + step].reshape(-1, channels))
    return _divide(sums, across * down).reshape(rows, columns, channels)


def _divide(sums: np.ndarray[tuple[int, ...], np.dtype[np.float32]], count: int) -> UInt8Array:
    """Divide the sums of this number of samples, in Pillow's fixed-point arithmetic."""
    whole = sums.astype(np.uint32)
    whole += count // 2
    whole *= (1 << 24) // count
    whole >>= 24
    return whole.astype(np.uint8)


@functools.lru_cache(maxsize=32)
def filter_weights(length: int, count: int, end: float) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return Pillow's weights of its Hamming filter along an axis, for samples of 8 bits.

    Source: Pillow's ``src/libImaging/Resample.c``, whose definition of the weights this follows.

    Args:
        length: pixels of the axis.
        count: pixels of the result, fewer.
        end: where the part that is shrunk ends; it begins at 0.

    Returns:
        For each pixel of the result, the first pixel that it uses, and the weights of the pixels from there on. They
        add up to about ``1 << WEIGHT_BITS``.
    """
    # Pillow takes it as a number of 32 bits.
    scale = float(np.float32(end)) / count
    found = []
    for place in range(count):
        center = (place + 0.5) * scale
        first, last = max(int(center - scale + 0.5), 0), min(int(center + scale + 0.5), length)
        weights = [_hamming((pixel - center + 0.5) * (1 / scale)) for pixel in range(first, last)]
        total = sum(weights)
        found.append((first, tuple(int(0.5 + weight / total * (1 << WEIGHT_BITS)) for weight in weights)))
    return tuple(found)


def _hamming(distance: float) -> float:
    angle = abs(distance) * math.pi
    if angle == 0:
        return 1.0
    if abs(distance) >= 1:
        return 0.0
    return math.sin(angle) / angle * (_FILTER_PARTS[0] + _FILTER_PARTS[1] * math.cos(angle))
