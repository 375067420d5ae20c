"""Shrinking a page as scans and web pages are shrunk, so that what a model makes of it can be compared with it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Track:
    """One way in which originals are shrunk."""

    name: str
    factor: float
    """Original sides over shrunk sides."""
    quality: int | None
    """Of the JPEG that the shrunk page goes through; None for none."""

    @property
    def noisy(self) -> bool:
        """Whether there are JPEG artefacts to be cleaned away."""
        return self.quality is not None


def shrink_original(original: Image.Image, track: Track) -> Image.Image:
    """Return the page as a model gets it: antialiased bicubic, through JPEG where the track says so."""
    width, height = (max(1, round(side / track.factor)) for side in original.size)
    small = original.resize((width, height), Image.Resampling.BICUBIC)
    return small if track.quality is None else through_jpeg(small, track.quality)


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Return the image as it comes out of a JPEG: Pillow's defaults, 4:2:0 for colour, gray for mode L."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    with Image.open(data) as decoded:
        decoded.load()
        return decoded.copy()


def crop_middle(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the middle of an image; it must be at least that large."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def without_needless_color(image: Image.Image) -> Image.Image:
    """Return an RGB image as mode L where all its pixels are gray: its JPEG would be a gray one."""
    red, green, blue = np.asarray(image).transpose(2, 0, 1)
    return Image.fromarray(red.copy()) if (red == green).all() and (red == blue).all() else image


def spread(items: Sequence[Item], count: int | None) -> list[Item]:
    """Return so many of the items, evenly spread, in their order; all of them for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]
