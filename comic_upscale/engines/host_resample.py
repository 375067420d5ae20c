"""The resampling of `torch/resample.py` in NumPy, for engines that return their pixels to the host.

Antialiased Lanczos-3 to an exact size, which equals Pillow's within one gray level. A window of an image is resampled
to a cell of the target as if the whole image were resampled.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from comic_upscale.engines.lanczos import Span, dense_weights, input_span
from comic_upscale.imaging.pixels import SampleArray

Floats: TypeAlias = NDArray[np.float32]
_BLOCK = 64
"""The number of outputs of one matrix product."""
_STRIP = 512
"""Rows of the target that `to_samples` makes at a time."""


def resample_window(
    pixels: Floats,
    *,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
    origin: tuple[int, int] = (0, 0),
    rows: Span | None = None,
    columns: Span | None = None,
) -> Floats:
    """Resample a window of an image to a cell of the target.

    Args:
        pixels: C x height x width, values 0..1: the window.
        source_size: (height, width) of the whole source in pixels.
        target_size: (height, width) of the whole target in pixels.
        origin: (row, column) of the window's first pixel in the whole source.
        rows: rows of the target to compute; None for all. The window must contain their ``input_span``.
        columns: the same for columns.

    Returns:
        C x ``rows`` x ``columns``; a little outside 0..1 where Lanczos overshoots.
    """
    rows, columns = rows or Span(0, target_size[0]), columns or Span(0, target_size[1])
    needed = input_span(source_size[0], target_size[0], rows)
    picture = pixels[:, needed.start - origin[0] : needed.stop - origin[0]]
    # As in Pillow, the horizontal pass comes first, and its samples are clipped to their range.
    picture = _along(picture, source_size[1], target_size[1], columns, origin[1])
    if source_size[1] != target_size[1]:
        np.clip(picture, 0, 1, out=picture)
    turned = _along(picture.transpose(0, 2, 1), source_size[0], target_size[0], rows, needed.start)
    return turned.transpose(0, 2, 1)


def resample_samples(samples: SampleArray, target: tuple[int, int]) -> SampleArray:
    """Resample a page to a target size.

    Args:
        samples: uint8 or uint16, height x width x C.
        target: (width, height) in pixels.

    Returns:
        Samples of the same type, height x width x C of the target.
    """
    white = np.iinfo(samples.dtype).max
    return to_samples(samples.astype(np.float32) / np.float32(white), target, samples.dtype)


def to_samples(page: Floats, target: tuple[int, int], kind: np.dtype[Any]) -> SampleArray:
    """Resample a page of numbers to a target size, in strips, so that a large page needs little more memory.

    Args:
        page: height x width x C, values 0..1.
        target: (width, height) in pixels.
        kind: uint8 or uint16.

    Returns:
        Samples of that type, height x width x C of the target.
    """
    white = np.float32(np.iinfo(kind).max)
    planes = page.transpose(2, 0, 1)
    width, height = target
    result = np.empty((height, width, page.shape[2]), kind)
    for start in range(0, height, _STRIP):
        rows = Span(start, min(start + _STRIP, height))
        needed = input_span(page.shape[0], height, rows)
        made = resample_window(
            planes[:, needed.start : needed.stop],
            source_size=(page.shape[0], page.shape[1]),
            target_size=(height, width),
            origin=(needed.start, 0),
            rows=rows,
        )
        result[rows.start : rows.stop] = np.rint(np.clip(made, 0, 1) * white).transpose(1, 2, 0)
    return result


def _along(picture: NDArray[Any], in_size: int, out_size: int, outputs: Span, first: int) -> Floats:
    """Resample the last axis, whose first sample is sample ``first`` of the whole axis."""
    if in_size == out_size:
        return np.asarray(picture[:, :, outputs.start - first : outputs.stop - first], np.float32)
    parts = [
        picture[:, :, inputs.start - first : inputs.stop - first] @ weights.T
        for inputs, weights in _blocks(in_size, out_size, outputs)
    ]
    return np.concatenate(parts, axis=2)


@lru_cache(maxsize=64)
def _blocks(in_size: int, out_size: int, outputs: Span) -> tuple[tuple[Span, Floats], ...]:
    starts = range(outputs.start, outputs.stop, _BLOCK)
    return tuple(
        dense_weights(in_size, out_size, Span(start, min(start + _BLOCK, outputs.stop))) for start in starts
    )
