"""How near a restored page comes to its original: PSNR, SSIM and GMSD on luma, and flat grounds kept flat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from benchmarks.validation import AbsentError

NEIGHBOURHOOD = 9
"""Side in input pixels of the square that must be flat for its middle to count as flat ground."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The distance of one page from its original."""

    psnr: float
    """Decibels; higher is better, 80 for an exact copy."""
    ssim: float
    """At most 1, which is an exact copy."""
    gmsd: float
    """Deviation of the gradients' likeness; lower is better, 0 for an exact copy."""


@dataclass(frozen=True, slots=True)
class FlatGround:
    """Output pixels on flat white or black ground, and how many of them came out exactly white or black."""

    white: int
    white_kept: int
    black: int
    black_kept: int


def luma(image: Image.Image) -> NDArray[np.float32]:
    """Return the luma of BT.601, full range, unrounded: float32 0..255, height x width."""
    if image.mode == "L":
        return np.asarray(image, np.float32)
    weighted = np.asarray(image.convert("RGB"), np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.clip(weighted, 0, 255)  # white is a rounding error above 255


def score(image: Image.Image, original: Image.Image) -> Scores:
    """Return the scores of a page of the original's size; nothing is cut from the borders.

    Raises:
        AbsentError: `piq` is not installed.
        ValueError: the sizes differ.
    """
    try:
        import piq
        import torch
    except ImportError as error:
        raise AbsentError(f"{error}: pip install piq, or measure with --seconds-only.") from error
    if image.size != original.size:
        raise ValueError(f"{image.size} cannot be compared with {original.size}")
    with torch.inference_mode():
        one, other = (torch.from_numpy(luma(each).copy())[None, None] for each in (image, original))
        return Scores(
            psnr=float(piq.psnr(one, other, data_range=255)),
            ssim=float(piq.ssim(one, other, data_range=255, downsample=False)),
            gmsd=float(piq.gmsd(one, other, data_range=255)),
        )


def flat_ground(source: Image.Image, output: Image.Image) -> FlatGround:
    """Count flat white and black ground that stayed exactly so.

    Args:
        source: what the model got. Its pixel is flat white (black) ground where all of the 9 x 9 around it is
            255 (0) in every channel.
        output: what the model made of it, larger by any factor.
    """
    darkest, lightest = _extremes(source)
    white = darkest.filter(ImageFilter.MinFilter(NEIGHBOURHOOD)).point(lambda level: 255 * (level == 255))
    black = lightest.filter(ImageFilter.MaxFilter(NEIGHBOURHOOD)).point(lambda level: 255 * (level == 0))
    on_white, on_black = (
        np.asarray(ground.resize(output.size, Image.Resampling.NEAREST)) == 255 for ground in (white, black)
    )
    darkest, lightest = _extremes(output)
    return FlatGround(
        white=int(on_white.sum()),
        white_kept=int((np.asarray(darkest)[on_white] == 255).sum()),
        black=int(on_black.sum()),
        black_kept=int((np.asarray(lightest)[on_black] == 0).sum()),
    )


def _extremes(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The darkest and the lightest channel of each pixel, as mode L."""
    darkest, *others = bands = image.split()
    for band in others:
        darkest = ImageChops.darker(darkest, band)
    lightest = bands[0]
    for band in others:
        lightest = ImageChops.lighter(lightest, band)
    return darkest, lightest
