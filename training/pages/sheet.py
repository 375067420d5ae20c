"""The paper: a piece of a page, drawn larger than it will be, on which shapes are filled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from training.pages.strokes import Points

Colour: TypeAlias = tuple[int, int, int]
Pixels: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)

# A mask is drawn this much finer than the sheet and then averaged: Pillow's polygons have hard edges.
_FINE = 2


@dataclass(frozen=True, slots=True)
class Grid:
    """The places of a block of pixels, in pixels of the finished page: a row of x, a column of y."""

    x: Floats
    y: Floats
    scale: int
    finest: float = math.inf
    """The highest frequency of a tone that is drawn as dots, in cycles a pixel of the finished page."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.y.shape[0], self.x.shape[1]


Fill: TypeAlias = Colour | Callable[[Grid], Floats]
"""A colour, or what gives the values (0..255, with or without a third axis of colour) at a grid of places."""


def luma(colour: Colour) -> int:
    """How light a colour is, 0 to 255."""
    return round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2])


class Sheet:
    """A rectangle of the page; all coordinates are those of the finished page, in its pixels."""

    def __init__(
        self,
        box: tuple[float, float, float, float],
        *,
        gray: bool,
        scale: int,
        paper: Colour = WHITE,
        finest: float = math.inf,
    ) -> None:
        self.gray, self.scale, self.finest = gray, scale, finest
        self.left, self.top = int(np.floor(box[0])), int(np.floor(box[1]))
        size = (int(np.ceil(box[2])) - self.left) * scale, (int(np.ceil(box[3])) - self.top) * scale
        self.image = Image.new("L" if gray else "RGB", (max(size[0], 1), max(size[1], 1)), self._ink(paper))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        width, height = self.image.size
        return self.left, self.top, self.left + width / self.scale, self.top + height / self.scale

    def fill(
        self,
        shapes: Sequence[Points],
        fill: Fill,
        *,
        within: Points | None = None,
        without: Points | None = None,
        opacity: float = 1,
    ) -> None:
        """Fill all of the shapes with one filling, where they lie within and not without the shapes named."""
        place = self._place(shapes, within)
        if place is None:
            return
        mask = self._mask(shapes, place)
        if within is not None:
            mask = ImageChops.multiply(mask, self._mask([within], place))
        if without is not None:
            mask = ImageChops.multiply(mask, ImageChops.invert(self._mask([without], place)))
        self._pour(mask, place, fill, opacity)

    def stamp(self, mask: Image.Image, x: float, y: float, fill: Fill, *, opacity: float = 1) -> None:
        """Fill through a mask in the sheet's own larger pixels, its upper left corner at (x, y)."""
        left, top = round((x - self.left) * self.scale), round((y - self.top) * self.scale)
        cut = (
            max(-left, 0),
            max(-top, 0),
            min(mask.width, self.image.width - left),
            min(mask.height, self.image.height - top),
        )
        if cut[0] >= cut[2] or cut[1] >= cut[3]:
            return
        self._pour(mask.crop(cut), (left + cut[0], top + cut[1], left + cut[2], top + cut[3]), fill, opacity)

    def mask(self, shapes: Sequence[Points]) -> Image.Image:
        """How much of each pixel of the sheet the shapes cover."""
        return self._mask(shapes, (0, 0, *self.image.size))

    def inset(self, other: Sheet, frame: Points) -> None:
        """Put another sheet's drawing on this one, as far as the frame reaches."""
        place = self._place([frame], None)
        if place is None:
            return
        dx, dy = (self.left - other.left) * self.scale, (self.top - other.top) * self.scale
        piece = other.image.crop((place[0] + dx, place[1] + dy, place[2] + dx, place[3] + dy))
        self.image.paste(piece, place, self._mask([frame], place))

    def _ink(self, colour: Colour) -> Any:
        return luma(colour) if self.gray else colour

    def _place(self, shapes: Sequence[Points], within: Points | None) -> tuple[int, int, int, int] | None:
        if not shapes:
            return None
        corners = np.concatenate(shapes)
        low, high = corners.min(axis=0), corners.max(axis=0)
        if within is not None:
            low, high = np.maximum(low, within.min(axis=0)), np.minimum(high, within.max(axis=0))
        origin = np.array([self.left, self.top])
        low, high = np.floor((low - origin) * self.scale) - 1, np.ceil((high - origin) * self.scale) + 2
        left, top = (int(v) for v in np.maximum(low, 0))
        right, bottom = (int(v) for v in np.minimum(high, self.image.size))
        return None if left >= right or top >= bottom else (left, top, right, bottom)

    def _mask(self, shapes: Sequence[Points], place: tuple[int, int, int, int]) -> Image.Image:
        left, top, right, bottom = place
        mask = Image.new("L", ((right - left) * _FINE, (bottom - top) * _FINE), 0)
        draw = ImageDraw.Draw(mask)
        fine = self.scale * _FINE
        shift = np.array([self.left * fine + left * _FINE, self.top * fine + top * _FINE])
        for shape in shapes:
            if len(shape) > 2:
                draw.polygon((shape * fine - shift).ravel().tolist(), fill=255)
        return mask.reduce(_FINE)

    def _pour(self, mask: Image.Image, place: tuple[int, int, int, int], fill: Fill, opacity: float) -> None:
        if opacity < 1:
            mask = mask.point([round(v * opacity) for v in range(256)])
        if isinstance(fill, tuple):
            self.image.paste(self._ink(fill), place, mask)
            return
        values = fill(self._grid(place))
        self.image.paste(self._as_image(values), place, mask)

    def _grid(self, place: tuple[int, int, int, int]) -> Grid:
        left, top, right, bottom = place
        x = (np.arange(left, right, dtype=np.float32) + 0.5) / self.scale + self.left
        y = (np.arange(top, bottom, dtype=np.float32) + 0.5) / self.scale + self.top
        return Grid(x[None, :].astype(np.float32), y[:, None].astype(np.float32), self.scale, self.finest)

    def _as_image(self, values: Floats) -> Image.Image:
        pixels = np.clip(values + 0.5, 0, 255).astype(np.uint8)
        if self.gray and pixels.ndim == 3:
            return Image.fromarray(pixels).convert("L")
        if not self.gray and pixels.ndim == 2:
            return Image.fromarray(pixels).convert("RGB")
        return Image.fromarray(pixels)
