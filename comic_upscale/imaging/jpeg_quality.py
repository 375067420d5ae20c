"""Estimate the quality of a JPEG, 1 to 100, from its table for brightness.

Encoders based on the IJG's library scale the standard table by the quality. For other tables, the quality is that of
the nearest scaled one.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STANDARD = np.array(
    [
        16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
        51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121,
        120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
    ]
)  # fmt: skip
"""The table for brightness of ITU-T T.81, K.1."""


def jpeg_quality(data: bytes) -> int | None:
    """Return the quality of a JPEG file, 1 to 100; None for any other file, or one whose table cannot be read."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            tables = getattr(image, "quantization", {})
    except (OSError, ValueError, SyntaxError):
        return None
    table = np.array(tables.get(0, ()))
    if table.shape != (64,):
        return None
    return int(np.argmin(np.abs(_scaled() - np.sort(table)).sum(axis=1))) + 1


@cache
def _scaled() -> NDArray[np.int64]:
    """Return the standard table at every quality: 100 x 64. Sorted, since Pillow's order has changed."""
    qualities = np.arange(1, 101)
    factors = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    scaled = (np.sort(_STANDARD)[None] * factors[:, None] + 50) // 100
    table: NDArray[np.int64] = np.sort(scaled.clip(1, 255), axis=1)
    return table
