"""Pages with surfaces and edges, drawn for the tests of engines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def draw_pages(
    count: int, height: int, width: int, channels: int = 3, kind: type[np.generic] = np.uint8
) -> NDArray[Any]:
    """Return pages that differ from each other: count x height x width x channels."""
    rng = np.random.default_rng(count * height * width)
    most = int(np.iinfo(kind).max)  # type: ignore[type-var]
    # Drawn coarse and enlarged: surfaces and edges as on a page, not noise alone.
    coarse = rng.integers(0, most, (count, -(-height // 4), -(-width // 4), channels), kind, endpoint=True)
    return np.ascontiguousarray(coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width])


def worst(one: NDArray[Any], other: NDArray[Any]) -> int:
    """Return the largest difference between two samples of the same place."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())
