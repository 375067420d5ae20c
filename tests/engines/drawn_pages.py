"""Pages with surfaces and edges, drawn for the tests of engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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


def draw_page(folder: Path, name: str = "a.png", size: tuple[int, int] = (60, 80)) -> None:
    """Write a page of this (width, height); another name is another page."""
    folder.mkdir(exist_ok=True)
    number = sum(name.encode())
    pixels = np.random.default_rng(number).integers(0, 255, (size[1] // 4, size[0] // 4, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / name)
