"""Shrink a page by whole numbers: the mean of each block of pixels, to the bit as Pillow's ``Image.reduce`` rounds it.

Pillow first copies a page of three channels into pixels of four bytes, which takes longer than the means, except for
blocks of four pixels. By other numbers, Pillow's filter shrinks a page. Its weights are here for devices.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
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


def filter_weights(length: int, count: int, end: float) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return Pillow's weights of its Hamming filter along an axis, for samples of 8 bits.

    Source: Pillow's ``src/libImaging/Resample.c``, whose definition of the weights this follows.

    Args:
        length: pixels of the axis.
        count: pixels of the result, fewer.
        end: where the part that is shrunk ends; it begins at 0.

    Returns:
        For each pixel of the result, the pixels that it uses and their weights, ``count x taps`` each. The weights add
        up to about ``1 << WEIGHT_BITS``. A pixel with the weight 0 is not used.
    """
    # Pillow takes it as a number of 32 bits.
    scale = float(np.float32(end)) / count
    centers = (np.arange(count) + 0.5) * scale
    # astype truncates towards zero, as the cast in Pillow's C code does.
    first = np.maximum((centers - scale + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + scale + 0.5).astype(np.int64), length)
    pixels = first[:, None] + np.arange((last - first).max())
    distances = np.abs((pixels - centers[:, None] + 0.5) * (1 / scale))
    one, other = _FILTER_PARTS
    weights = np.sinc(distances) * (one + other * np.cos(distances * math.pi))
    # Pillow's parts add up to a little more than 1, and it does not use them here.
    weights[distances == 0] = 1
    weights[(distances >= 1) | (pixels >= last[:, None])] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.minimum(pixels, length - 1), (0.5 + weights * (1 << WEIGHT_BITS)).astype(np.int32)
