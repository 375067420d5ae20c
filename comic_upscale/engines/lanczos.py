"""The coefficients of the Lanczos-3 kernel: the input pixels of each output pixel along an axis, and their weights.

Source: Pillow's ``src/libImaging/Resample.c``, whose definition of the coefficients this follows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SUPPORT = 3.0
"""Half the width of the kernel, in pixels of the coarser of the two images."""


class Span(NamedTuple):
    """A half-open run of pixels of one axis, ``start <= pixel < stop``."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Pixels in the run."""
        return self.stop - self.start


def input_span(in_size: int, out_size: int, outputs: Span) -> Span:
    """Return the inputs of an axis that the outputs need. No input outside of this run has a weight.

    Args:
        in_size: pixels of the whole source axis, at least 1.
        out_size: pixels of the whole target axis, at least 1.
        outputs: a run within ``[0, out_size)``, not empty.

    Returns:
        A run within ``[0, in_size)``, not empty.
    """
    if in_size == out_size:
        return outputs
    first, last = _bounds(in_size, out_size, np.array([outputs.start, outputs.stop - 1]))
    return Span(int(first[0]), int(last[1]))


def dense_weights(in_size: int, out_size: int, outputs: Span) -> tuple[Span, NDArray[np.float32]]:
    """Return the coefficients of a run of outputs. They equal those of the whole axis, wherever the run is.

    Args:
        in_size: pixels of the whole source axis, at least 1.
        out_size: pixels of the whole target axis, at least 1.
        outputs: a run within ``[0, out_size)``, not empty.

    Returns:
        The inputs that the run needs, and float32 ``outputs.length x inputs.length``; each row sums to 1.
    """
    inputs = input_span(in_size, out_size, outputs)
    first, weights = tap_weights(in_size, out_size, outputs)
    taps = first[:, None] + np.arange(weights.shape[1])
    dense = np.zeros((outputs.length, inputs.length), dtype=np.float32)
    # A tap past the last input has weight 0, so it may be added anywhere.
    columns = np.minimum(taps - inputs.start, inputs.length - 1)
    np.add.at(dense, (np.arange(outputs.length)[:, None], columns), weights)
    return inputs, dense


def tap_weights(in_size: int, out_size: int, outputs: Span) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the coefficients of a run of outputs, only those of their own inputs.

    Args:
        in_size: as in `dense_weights`.
        out_size: as in `dense_weights`.
        outputs: as in `dense_weights`.

    Returns:
        The first input of each output, and float32 ``outputs.length x taps``, the weights of the inputs from there on;
        each row sums to 1. Inputs past the end of the axis have the weight 0.
    """
    places = np.arange(outputs.start, outputs.stop, dtype=np.int64)
    if in_size == out_size:
        return places, np.ones((outputs.length, 1), np.float32)
    first, last = _bounds(in_size, out_size, places)
    scale = in_size / out_size
    taps = first[:, None] + np.arange((last - first).max())
    distance = (taps - (places[:, None] + 0.5) * scale + 0.5) / max(scale, 1.0)
    weights = np.sinc(distance) * np.sinc(distance / SUPPORT)
    weights[(distance < -SUPPORT) | (distance >= SUPPORT) | (taps >= last[:, None])] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return first, weights.astype(np.float32)


def _bounds(
    in_size: int, out_size: int, outputs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each output the first input that it uses, and the one after the last."""
    scale = in_size / out_size
    support = SUPPORT * max(scale, 1.0)
    centers = (outputs + 0.5) * scale
    # astype truncates towards zero, as the cast in Pillow's C code does.
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + support + 0.5).astype(np.int64), in_size)
    return first, last
