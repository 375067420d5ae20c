"""Faults for the measure of the gate, planted where an engine hands a page over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from comic_upscale.imaging.pixels import Borders, SampleArray

FAINT = 6
"""Levels between the channels of a pixel that is gray to the eye."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A page as the engine made it, and what a fault is made of."""

    page: SampleArray
    """uint8, height x width x C; not to be changed."""
    other: SampleArray
    """Another page, of the same shape."""
    borders: Borders
    """Where the page's tiles meet."""
    scale: float
    chance: np.random.Generator


Plant = Callable[[Scene], SampleArray | None]
"""Gives the faulty page; None where the page does not have what the fault would spoil."""
LEAST_CHANGE = 1.0
"""Levels, in the mean over a tile, below which another tile is none: white paper in place of white paper."""


def black(scene: Scene) -> SampleArray:
    """Nothing at all, as half precision gives on some cards."""
    return np.zeros_like(scene.page)


def not_finite(scene: Scene) -> SampleArray:
    """What is left of NaN once it is cast to bytes: zeros, here in a tile; the engine itself sees it before."""
    page = scene.page.copy()
    page[_a_tile(scene)] = 0
    return page


def swapped(scene: Scene) -> SampleArray:
    """The neighbour in the batch."""
    return scene.other


def foreign_tile(scene: Scene) -> SampleArray | None:
    """One tile from the neighbour in the batch."""
    return _with_tile(scene, scene.other)


def tint(scene: Scene) -> SampleArray:
    """One channel by three levels; of a gray page the only one."""
    page = scene.page.astype(np.int16)
    page[:, :, scene.chance.integers(page.shape[2])] += 3 * int(scene.chance.choice((-1, 1)))
    return _bytes(page)


def off_white(scene: Scene) -> SampleArray | None:
    """White to 252."""
    return np.minimum(scene.page, 252) if np.mean(scene.page == 255) > 0.02 else None


def darker_tile(scene: Scene) -> SampleArray:
    """One tile darker by five levels: a seam along its sides."""
    page, tile = scene.page.astype(np.int16), _a_tile(scene)
    page[tile] -= 5
    return _bytes(page)


def displaced_tile(scene: Scene) -> SampleArray | None:
    """One tile drawn a source's pixel from where it belongs: lines are broken along its sides."""
    return _with_tile(scene, np.roll(scene.page, round(scene.scale), axis=int(scene.chance.integers(2))))


def chroma(scene: Scene) -> SampleArray | None:
    """Red by five levels up and blue by five down, on a gray page of three channels."""
    page = scene.page.astype(np.int16)
    if page.shape[2] == 1 or np.mean(np.ptp(page, axis=2) <= FAINT) < 0.99:
        return None
    page[:, :, 0] += 5
    page[:, :, 2] -= 5
    return _bytes(page)


def half_pixel(scene: Scene) -> SampleArray:
    """Everything half a pixel of the source to the left."""
    page = scene.page
    image = Image.fromarray(page[:, :, 0] if page.shape[2] == 1 else page)
    affine = (1, 0, scene.scale / 2, 0, 1, 0)
    moved = image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(moved).reshape(page.shape)


FAULTS: dict[str, Plant] = {
    "black": black,
    "not finite": not_finite,
    "swapped neighbour": swapped,
    "one tile from another page": foreign_tile,
    "tint of 3 levels": tint,
    "white to 252": off_white,
    "a seam: a tile darker by 5": darker_tile,
    "a seam: a tile displaced": displaced_tile,
    "chroma on gray": chroma,
    "half-pixel shift": half_pixel,
}


def _a_tile(scene: Scene) -> tuple[slice, slice]:
    height, width = scene.page.shape[:2]
    rows, columns = (0, *scene.borders.rows, height), (0, *scene.borders.columns, width)
    down, right = (int(scene.chance.integers(len(ends) - 1)) for ends in (rows, columns))
    return slice(*rows[down : down + 2]), slice(*columns[right : right + 2])


def _with_tile(scene: Scene, other: SampleArray) -> SampleArray | None:
    page, tile = scene.page.copy(), _a_tile(scene)
    page[tile] = other[tile]
    change = np.abs(page[tile].astype(np.int16) - scene.page[tile]).mean()
    return page if change >= LEAST_CHANGE else None


def _bytes(page: SampleArray) -> SampleArray:
    return page.clip(0, 255).astype(np.uint8)
