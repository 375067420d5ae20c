"""Measures of what an upscaled page has that its source has not: invented texture, and soiled white.

`benchmarks.invented` defines them, and says where the thresholds come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from comic_upscale.evaluation.picture import as_pixels, busiest_region, luma
from comic_upscale.imaging.gray import eight_bits

BLOCK = 10
"""Side of a block, in source pixels."""
LEAST_DETAIL = 5.0
"""Levels of detail finer than the source can hold, from which it is seen."""
LEAST_RATIO = 2.0
"""That detail over the contrast of the source, from which it is invented."""
MOST_CONTRAST = 10.0
"""Levels of contrast of the source, up to which a block is quiet."""
LINE = 80
"""Levels between a source pixel and its neighbours, from which it belongs to a line or letter."""
MARGIN = 3
"""Source pixels around a line that are left out."""
LEAST_SHARE = 0.4
"""Share of a block's pixels that must be left."""
TONE = 24
"""Levels between a source pixel and its neighbours, from which it may belong to screentone."""
TONE_SHARE = 0.9
"""Share of a block's pixels that must, for screentone: a line leaves more of its block alone."""
MOST_RATIO_OF_TONE = 2.5
"""The most detail over contrast of screentone that the output keeps."""
_AROUND = 2
"""Source pixels each way of the mean that contrast is measured from."""

WHITE_PART = 160
"""Side of the part of a page whose white is followed."""
_BESIDE = 17
"""Side of the square around a white pixel in which JPEG of 8 x 8 and 16 x 16 pixels carries drawing onto it."""

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page with invented texture."""

    left: int
    """First column, in source pixels."""
    top: int
    """First row, in source pixels."""
    detail: float
    """Detail finer than the source can hold, levels."""
    contrast: float
    """Contrast of the source, levels."""


@dataclass(frozen=True, slots=True)
class White:
    """White pixels of a clean page, and how many of them are still pure (255) and nearly white (254 or 255)."""

    pixels: int
    pure: int
    near: int


def invented_blocks(source: Image.Image, output: Image.Image) -> list[Block]:
    """Return the blocks with invented texture, the strongest first.

    Args:
        source: the input of the model, mode L or RGB, transparency flattened.
        output: its output, larger by any factor, mode L or RGB.
    """
    before, after = (luma(eight_bits(as_pixels(image).color)) for image in (source, output))
    steps = _steps(source)
    finer = _finer_detail(after, source.size)
    away = _away_from_lines(steps).astype(np.float32)
    contrast = np.sqrt(_block_means(np.square(before - _mean_around(before))))
    detail = np.sqrt(_block_means(finer, away))
    found = (detail >= np.maximum(LEAST_DETAIL, LEAST_RATIO * contrast)) & (contrast <= MOST_CONTRAST)
    found &= _block_means(away) >= LEAST_SHARE
    all_detail = np.sqrt(_block_means(finer))
    kept_tone = (_block_means((steps >= TONE).astype(np.float32)) >= TONE_SHARE) & (contrast >= MOST_CONTRAST)
    kept_tone &= (all_detail >= LEAST_DETAIL) & (all_detail <= MOST_RATIO_OF_TONE * contrast)
    found &= ~_beside(kept_tone)
    blocks = [
        Block(int(column) * BLOCK, int(row) * BLOCK, float(detail[row, column]), float(contrast[row, column]))
        for row, column in np.argwhere(found)
    ]
    return sorted(blocks, key=lambda block: block.detail, reverse=True)


def _finer_detail(after: Floats, size: tuple[int, int]) -> Floats:
    """Return the square of the detail that an image of this size cannot hold, mean over each of its pixels."""
    reduced = _resized(after, size, Image.Resampling.BICUBIC)
    again = _resized(reduced, (after.shape[1], after.shape[0]), Image.Resampling.BICUBIC)
    return np.maximum(_resized(np.square(after - again), size, Image.Resampling.BOX), 0)


def _resized(plane: Floats, size: tuple[int, int], by: Image.Resampling) -> Floats:
    return np.asarray(Image.fromarray(plane).resize(size, by), np.float32)


def _mean_around(plane: Floats) -> Floats:
    """Return the mean of the square around each pixel; the page's edge is repeated."""
    side = 2 * _AROUND + 1
    sums = np.pad(plane.astype(np.float64), _AROUND, mode="edge").cumsum(0).cumsum(1)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    total = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    mean: Floats = (total / side**2).astype(np.float32)
    return mean


def _steps(source: Image.Image) -> NDArray[np.int16]:
    """Return the levels between the darkest and the lightest of each pixel and its neighbours."""
    gray = source.convert("L")
    darkest, lightest = gray.filter(ImageFilter.MinFilter(3)), gray.filter(ImageFilter.MaxFilter(3))
    return np.asarray(lightest, np.int16) - np.asarray(darkest, np.int16)


def _away_from_lines(steps: NDArray[np.int16]) -> Mask:
    """Return which pixels have no line or letter nearby."""
    lines = Image.fromarray((steps >= LINE).astype(np.uint8))
    away: Mask = np.asarray(lines.filter(ImageFilter.MaxFilter(2 * MARGIN + 1))) == 0
    return away


def _beside(blocks: Mask) -> Mask:
    """Return these blocks and their eight neighbours."""
    mask = Image.fromarray(blocks.astype(np.uint8))
    beside: Mask = np.asarray(mask.filter(ImageFilter.MaxFilter(3))) == 1
    return beside


def _block_means(plane: Floats, weights: Floats | None = None) -> Floats:
    """Return the weighted mean of each whole block; 0 where the weights are 0."""
    rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK

    def means(values: Floats) -> Floats:
        whole = values[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
        mean: Floats = whole.mean(axis=(1, 3))
        return mean

    if weights is None:
        return means(plane)
    weighted: Floats = means(plane * weights) / np.maximum(means(weights), 1e-6).astype(np.float32)
    return weighted


def white_mask(clean: Image.Image) -> Mask:
    """Return which pixels of a clean page are pure white with all their neighbours."""
    white: Mask = np.asarray(_darkest(clean).filter(ImageFilter.MinFilter(3))) == 255
    return white


def white_kept(mask: Mask, picture: Image.Image) -> White:
    """Count the white pixels of a picture that is as large as the mask, or larger by any factor."""
    grown = Image.fromarray(mask.astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    levels = np.asarray(_darkest(picture))[np.asarray(grown) == 1]
    return White(levels.size, int((levels == 255).sum()), int((levels >= 254).sum()))


def _darkest(image: Image.Image) -> Image.Image:
    """Return the darkest channel of each pixel."""
    samples = as_pixels(image).color
    return Image.fromarray(np.ascontiguousarray(samples.min(axis=2)))


def white_part(source: Image.Image) -> Image.Image:
    """Return the part of a page with the most white pixels that JPEG can soil with drawing nearby."""
    white = white_mask(source)
    drawn = Image.fromarray((~white).astype(np.uint8)).filter(ImageFilter.MaxFilter(_BESIDE))
    beside = (white & (np.asarray(drawn) == 1)).astype(np.float32)
    return source.crop(busiest_region(beside, (WHITE_PART, WHITE_PART)))
