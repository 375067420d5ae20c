"""Measures of what an upscaled page has that its source has not: invented texture, and soiled white.

`benchmarks.invented` defines them, and says where the thresholds come from. The gate of a run measures the texture as
well (`comic_upscale.gate.texture`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from comic_upscale.evaluation.picture import as_pixels, busiest_region, luma
from comic_upscale.gate.texture import BLOCK, QuietBlocks, finer_detail
from comic_upscale.imaging.gray import eight_bits

WHITE_PART = 160
"""Side of the part of a page whose white is followed."""
_BESIDE = 17
"""Side of the square around a white pixel in which JPEG of 8 x 8 and 16 x 16 pixels carries drawing onto it."""

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
    blocks = QuietBlocks.of(np.asarray(source.convert("L")))
    found, detail = blocks.invented(finer_detail(luma(eight_bits(as_pixels(output).color)), source.size))
    chosen = [
        Block(
            int(column) * BLOCK,
            int(row) * BLOCK,
            float(detail[row, column]),
            float(blocks.contrast[row, column]),
        )
        for row, column in np.argwhere(found)
    ]
    return sorted(chosen, key=lambda block: block.detail, reverse=True)


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
