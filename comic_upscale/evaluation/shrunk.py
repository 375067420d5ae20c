"""Shrink an original as scans and web pages are shrunk, so that a model's output can be compared with it."""

from __future__ import annotations

import io
from bisect import bisect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

Item = TypeVar("Item")


_SPARES = 10
"""So many items, and twice those that are wanted, are tried in place of ones that cannot be used."""


@dataclass(frozen=True, slots=True)
class Track:
    """One way of shrinking originals."""

    name: str
    factor: float
    """Original size divided by shrunk size."""
    quality: int | None
    """Quality of the JPEG compression after shrinking; None for no JPEG."""

    @property
    def noisy(self) -> bool:
        """Whether there are JPEG artefacts to remove."""
        return self.quality is not None


def shrink_original(original: Image.Image, track: Track) -> Image.Image:
    """Return the input for a model: the page shrunk with antialiased bicubic, and through JPEG if the track has one."""
    width, height = (max(1, round(side / track.factor)) for side in original.size)
    small = original.resize((width, height), Image.Resampling.BICUBIC)
    return small if track.quality is None else through_jpeg(small, track.quality)


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Return the image after JPEG compression with Pillow's defaults, 4:2:0 for colour, gray for mode L."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    with Image.open(data) as decoded:
        decoded.load()
        return decoded.copy()


def crop_middle(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the centre of an image, which must be at least that large."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def without_needless_color(image: Image.Image) -> Image.Image:
    """Return an RGB image as mode L if all its pixels are gray, because its JPEG would be gray too."""
    red, green, blue = np.asarray(image).transpose(2, 0, 1)
    return Image.fromarray(red.copy()) if (red == green).all() and (red == blue).all() else image


def spread(items: Sequence[Item], count: int | None) -> list[Item]:
    """Return ``count`` items, evenly spread, in order; all items for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


class Sample(Generic[Item]):
    """Items of a list, evenly spread. One that cannot be used has the next one that is free in its place.

    Args:
        items: all items.
        count: how many to take; None for all.
    """

    def __init__(self, items: Sequence[Item], count: int | None) -> None:
        self._items = items
        self._waiting = deque(spread(range(len(items)), count))
        self._free = sorted(set(range(len(items))) - set(self._waiting))
        self._spares = _SPARES + 2 * len(self._waiting)
        self._last = 0

    def __len__(self) -> int:
        """Return how many items are still to be taken."""
        return len(self._waiting)

    def take(self) -> Item:
        """Return the next item."""
        self._last = self._waiting.popleft()
        return self._items[self._last]

    def replace(self) -> bool:
        """Put another item in the place of the one that was taken last; False if there is none, or many were tried."""
        if not self._free or not self._spares:
            return False
        self._spares -= 1
        later = bisect(self._free, self._last)
        self._waiting.appendleft(self._free.pop(later if later < len(self._free) else -1))
        return True
