"""Where a page has lettering or lines too fine for a diffusion model, which would draw other letters in their place.

A square counts if it has both paper and ink, little between them, and many changes from one to the other, as letters
have and large shapes have not.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from comic_upscale.imaging.pixels import UInt8Array

Floats: TypeAlias = NDArray[np.float32]

SQUARE = 16
"""Side of a square in source pixels."""
_LIGHT, _DARK = 176, 96
"""Levels of paper and of ink. Lettering in white on black counts alike."""
_MOST_BETWEEN = 0.45
"""The largest share of a square between paper and ink: the soft edges of small letters."""
_LEAST_SHARE = 0.06
"""The smallest share of paper, and of ink."""
_LEAST_CHANGES = 1.2
"""The fewest changes between paper and ink in a row or a column of a square, on average."""


def keep_map(page: UInt8Array) -> Floats:
    """Return where lettering and fine lines are.

    Args:
        page: the source, uint8, height x width x C.

    Returns:
        1 where the first pass is kept and 0 elsewhere, with soft edges, height x width of the source.
    """
    luma = page.mean(axis=2, dtype=np.float32)
    height, width = luma.shape
    down, right = -height % SQUARE, -width % SQUARE
    padded = np.pad(luma, ((0, down), (0, right)), mode="edge")
    found = np.zeros((padded.shape[0] // SQUARE, padded.shape[1] // SQUARE), np.bool_)
    # On two grids, half a square apart, so that no letter is cut by both.
    for shift in (0, SQUARE // 2):
        moved = np.roll(padded, (-shift, -shift), axis=(0, 1))
        marked = _has_lettering(moved)
        found |= marked
        if shift:
            found |= np.roll(marked, (1, 1), axis=(0, 1))
    image = Image.fromarray(found.astype(np.uint8) * 255)
    # One square more on each side: the ends of letters are in squares with too little ink.
    grown = image.filter(ImageFilter.MaxFilter(3))
    large = grown.resize((padded.shape[1], padded.shape[0]), Image.Resampling.NEAREST)
    soft = large.filter(ImageFilter.GaussianBlur(SQUARE / 4))
    return np.asarray(soft, np.float32)[:height, :width] / np.float32(255)


def _has_lettering(luma: Floats) -> NDArray[np.bool_]:
    rows, columns = luma.shape[0] // SQUARE, luma.shape[1] // SQUARE
    squares = luma.reshape(rows, SQUARE, columns, SQUARE).transpose(0, 2, 1, 3)
    light, dark = squares >= _LIGHT, squares <= _DARK
    shares = light.mean(axis=(2, 3)), dark.mean(axis=(2, 3))
    sides = (squares >= (_LIGHT + _DARK) / 2).astype(np.int8)
    across = np.abs(np.diff(sides, axis=3)).sum(axis=(2, 3)) / SQUARE
    down = np.abs(np.diff(sides, axis=2)).sum(axis=(2, 3)) / SQUARE
    found: NDArray[np.bool_] = (
        (shares[0] >= _LEAST_SHARE)
        & (shares[1] >= _LEAST_SHARE)
        & (1 - shares[0] - shares[1] <= _MOST_BETWEEN)
        & (np.maximum(across, down) >= _LEAST_CHANGES)
        & (np.minimum(across, down) >= _LEAST_CHANGES / 3)
    )
    return found
