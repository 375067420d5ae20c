"""Cut a face out of a page so that eyes, nose and mouth are where a network expects them, and put it back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.imaging.pixels import UInt8Array

Floats = NDArray[np.float32]

SIDE = 512
"""Side of an aligned face in pixels."""
TEMPLATE = np.array([(192.98, 239.95), (318.90, 240.19), (256.63, 314.02), (257.17, 371.28)])
"""Where FFHQ's aligned faces have both eyes, the nose and the middle of the mouth, in pixels of `SIDE`."""
_FEATHER = 0.18
"""The share of the side along which a restored face fades into the page."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Turns, scales and moves the pixels of a page to those of an aligned face."""

    matrix: NDArray[np.float64]
    """2 x 3: from (x, y, 1) of the page to (x, y) of the face."""

    @property
    def scale(self) -> float:
        """Pixels of the face for a pixel of the page."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))

    @classmethod
    def of(cls, points: NDArray[np.float64]) -> Alignment:
        """Return the alignment whose points are nearest to the template, by least squares.

        Args:
            points: (x, y) in pixels of the page of the points of `TEMPLATE`.
        """
        rows, wanted = [], []
        for (x, y), (u, v) in zip(points, TEMPLATE, strict=True):
            rows += [(x, -y, 1, 0), (y, x, 0, 1)]
            wanted += [u, v]
        a, b, right, down = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
        return cls(np.array([(a, -b, right), (b, a, down)]))

    def inverse(self) -> NDArray[np.float64]:
        """Return the 2 x 3 matrix from the face to the page."""
        turn = np.linalg.inv(self.matrix[:, :2])
        return np.hstack([turn, -turn @ self.matrix[:, 2:]])

    def corners(self) -> NDArray[np.float64]:
        """Return the corners of the face on the page, 4 x 2."""
        square = np.array([(0, 0, 1), (SIDE, 0, 1), (SIDE, SIDE, 1), (0, SIDE, 1)], np.float64)
        return square @ self.inverse().T


def cut(page: UInt8Array, alignment: Alignment) -> UInt8Array:
    """Return the aligned face, `SIDE` x `SIDE` x 3. Beyond the page, its edge is repeated."""
    corners = alignment.corners()
    left, top = np.floor(corners.min(axis=0)).astype(int) - 2
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 2
    rows = np.clip(np.arange(top, bottom), 0, page.shape[0] - 1)
    columns = np.clip(np.arange(left, right), 0, page.shape[1] - 1)
    image = Image.fromarray(page[rows][:, columns])
    matrix = alignment.inverse() - [(0, 0, left), (0, 0, top)]
    return np.asarray(
        image.transform((SIDE, SIDE), Image.Transform.AFFINE, _data(matrix), Image.Resampling.BICUBIC)
    )


def paste(page: Floats, face: Floats, alignment: Alignment, strength: float) -> None:
    """Blend a restored face into a page, in place.

    Args:
        page: height x width x 3, any unit.
        face: `SIDE` x `SIDE` x 3 in the same unit.
        alignment: by which it was cut.
        strength: 0 leaves the page as it is, 1 takes the face alone within its feathered edge.
    """
    corners = alignment.corners()
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int), [page.shape[1], page.shape[0]])
    if right <= left or bottom <= top:
        return
    size = (int(right - left), int(bottom - top))
    # Shrunk first where the page is coarser than the face: the transformation does not average.
    side = min(SIDE, max(8, round(SIDE / max(alignment.scale, 1.0))))
    share = side / SIDE
    matrix = alignment.matrix * share
    matrix = np.hstack([matrix[:, :2], matrix[:, :2] @ [[left], [top]] + matrix[:, 2:]])

    def place(plane: Floats) -> Floats:
        image = Image.fromarray(np.ascontiguousarray(plane, np.float32), "F")
        small = image.resize((side, side), Image.Resampling.LANCZOS) if side < SIDE else image
        moved = small.transform(size, Image.Transform.AFFINE, _data(matrix), Image.Resampling.BICUBIC)
        return np.asarray(moved, np.float32)

    part = page[top:bottom, left:right]
    weight = strength * np.clip(place(_mask()), 0, 1)[:, :, None]
    restored = np.stack([place(face[:, :, channel]) for channel in range(3)], axis=2)
    part += weight * (restored - part)


def _mask() -> Floats:
    """Return the weight of each pixel of a face: 0 at the edge, 1 inside, without a corner between."""
    places = (np.arange(SIDE) + 0.5) / SIDE
    ramp = np.clip(np.minimum(places, 1 - places) / _FEATHER - 0.1, 0, 1)
    smooth = (1 - np.cos(np.pi * ramp)) / 2
    return (smooth[:, None] * smooth[None, :]).astype(np.float32)


def _data(matrix: NDArray[np.float64]) -> tuple[float, ...]:
    """Return a matrix for Pillow, which adds half a pixel on both sides by itself."""
    return tuple(float(each) for each in matrix.ravel())
