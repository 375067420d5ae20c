"""The Lanczos-3 kernel as numbers: which pixels of an axis an output sees, and with what weights.

Source: Pillow's ``src/libImaging/Resample.c``, whose definition of the coefficients this follows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SUPPORT = 3.0
"""Half width of the kernel, in pixels of whichever side of the resize is coarser."""


class Span(NamedTuple):
    """A half-open run of pixels of one axis, ``start <= pixel < stop``."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Pixels in the run."""
        return self.stop - self.start


def input_span(in_size: int, out_size: int, outputs: Span) -> Span:
    """Tell which inputs of an axis the outputs need: nothing outside of it has a weight.

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
    """Return the coefficients of a run of outputs, as of the whole axis wherever the run lies.

    Args:
        in_size: pixels of the whole source axis, at least 1.
        out_size: pixels of the whole target axis, at least 1.
        outputs: a run within ``[0, out_size)``, not empty.

    Returns:
        The inputs that the run needs, and float32 ``outputs.length x inputs.length``, each row of sum 1.
    """
    places = np.arange(outputs.start, outputs.stop, dtype=np.int64)
    first, last = _bounds(in_size, out_size, places)
    inputs = Span(int(first[0]), int(last[-1]))
    scale = in_size / out_size
    taps = first[:, None] + np.arange((last - first).max())
    distance = (taps - (places[:, None] + 0.5) * scale + 0.5) / max(scale, 1.0)
    weights = np.sinc(distance) * np.sinc(distance / SUPPORT)
    weights[(distance < -SUPPORT) | (distance >= SUPPORT) | (taps >= last[:, None])] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    dense = np.zeros((outputs.length, inputs.length), dtype=np.float32)
    # A tap past the last input has weight 0, so it may be added anywhere.
    columns = np.minimum(taps - inputs.start, inputs.length - 1)
    np.add.at(dense, (np.arange(outputs.length)[:, None], columns), weights.astype(np.float32))
    return inputs, dense


def _bounds(
    in_size: int, out_size: int, outputs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each output the first input that it sees, and the one after the last."""
    scale = in_size / out_size
    support = SUPPORT * max(scale, 1.0)
    centers = (outputs + 0.5) * scale
    # astype cuts towards zero as the cast in Pillow's C does.
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + support + 0.5).astype(np.int64), in_size)
    return first, last
