"""Bring a finished page to the grays of an e-reader's screen, by dithering."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.gray import eight_bits, to_gray
from comic_upscale.imaging.pixels import Pixels, UInt8Array
from comic_upscale.settings.job import FormatName
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.settings.screens import Screen

_MOST_DITHERED = 32
"""Levels. Pillow looks colours up in steps of four, which is too coarse for more; and their steps do not show."""


def to_screen(page: Pixels, settings: ProcessingSettings, format: FormatName) -> Pixels:
    """Return a page for the screen of the settings. Without a screen, or for a colour screen, it stays as it is.

    Args:
        page: finished, at its target size; its profile is sRGB.
        settings: of the job.
        format: of the output. The values of a lossy one are not exact, so its pages become gray and are not dithered.
    """
    screen = settings.screen
    if screen is None or screen.levels is None:
        return page
    color = eight_bits(on_white(page))
    gray = eight_bits(to_gray(color) if color.shape[2] == 3 else color)
    gray = adjust(gray, screen)
    if FORMATS[format].is_lossless(settings.quality):
        gray = dither(gray, screen.levels)
    return replace(page, color=gray, alpha=None, icc_profile=None, device_work=None)


def adjust(gray: UInt8Array, screen: Screen) -> UInt8Array:
    """Apply the gamma of a screen to gray samples."""
    if screen.gamma == 1:
        return gray
    table = np.rint(255 * (np.arange(256) / 255) ** screen.gamma).astype(np.uint8)
    return table[gray]


def dither(gray: UInt8Array, levels: int) -> UInt8Array:
    """Return gray samples in evenly spaced levels, with the error of each pixel spread over its neighbours.

    With more than 32 levels, each sample gets the nearest one. Black and white stay exactly that. Samples that are such
    levels already stay unchanged.

    Args:
        gray: height x width x 1.
        levels: 2 to 256.
    """
    values = np.rint(np.linspace(0, 255, levels)).astype(np.uint8)
    if levels > _MOST_DITHERED:
        nearest = np.rint(np.arange(256) / 255 * (levels - 1)).astype(np.intp)
        return values[nearest][gray]
    palette = Image.new("P", (1, 1))
    palette.putpalette([int(value) for value in values.repeat(3)] + [255] * (3 * (256 - levels)))
    # Pillow dithers colour alone, in C. Equal channels stay equal.
    image = Image.fromarray(np.ascontiguousarray(gray[:, :, 0])).convert("RGB")
    placed = np.asarray(image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    table = np.full(256, 255, np.uint8)
    table[:levels] = values
    result: UInt8Array = table[placed][:, :, None]
    return result


def on_white(page: Pixels) -> UInt8Array:
    """Return the samples of a page on white paper."""
    color = eight_bits(page.color)
    if page.alpha is None:
        return color
    share = eight_bits(page.alpha).astype(np.float32)[:, :, None] / 255
    return np.rint(color * share + 255 * (1 - share)).astype(np.uint8)
