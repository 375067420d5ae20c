"""Compare an upscaled page with its source, at the size of the source.

The comparison cannot distinguish a good page from a very good one, because shrinking removes the detail that the
network added. It finds faults: another image, a tint, a black or shifted tile, lost lettering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.evaluation.metrics import SMALLEST_SIDE, luma_of, psnr, shifts, ssim, to_tensor
from comic_upscale.evaluation.picture import (
    BLACK,
    WHITE,
    as_image,
    check_transparency,
    flatten,
    is_transparent,
    luma,
)
from comic_upscale.imaging.pixels import Pixels, UInt8Array


@dataclass(frozen=True, slots=True)
class Likeness:
    """The likeness of a shrunk output and its source."""

    psnr: float
    """PSNR of luma in decibels; at most 80, for equal images."""
    ssim: float | None
    """SSIM of luma, at most 1; None if a side has fewer than 11 pixels."""
    shift: tuple[float, ...]
    """Difference of the mean of each channel (gray, or red, green and blue) from the source's, in levels of 255."""

    @property
    def largest_shift(self) -> float:
        """The largest absolute shift."""
        return max(abs(level) for level in self.shift)


def likeness(source: Pixels, output: Pixels) -> Likeness:
    """Compare an output with its source, at the size of the smaller of the two.

    Transparent pages are compared on white and on black, and the worse result counts.

    Args:
        source: the page.
        output: its output, of the same proportions.

    Raises:
        PageError: ``"transparency"`` if only one of the two is transparent, unless the output was flattened onto
            white because its format has no transparency.
    """
    if is_transparent(source) and output.alpha is None:
        source = Pixels(flatten(source, WHITE))
    check_transparency(source, output)
    import torch

    grounds = (WHITE, BLACK) if is_transparent(source) else (WHITE,)
    with torch.inference_mode():
        found = [_compare(*match_sizes(source, output, ground)) for ground in grounds]
    return min(found, key=lambda each: each.psnr)


def match_sizes(source: Pixels, output: Pixels, ground: int = WHITE) -> tuple[UInt8Array, UInt8Array]:
    """Return source and output at the same size and with the same number of channels.

    The larger one is shrunk with Pillow's antialiased Lanczos, as pages are.

    Args:
        source: the page.
        output: its output.
        ground: background of transparent pages.
    """
    size = (min(source.width, output.width), min(source.height, output.height))
    one, other = (_resize(flatten(page, ground), size) for page in (source, output))
    channels = max(one.shape[2], other.shape[2])
    return (
        np.broadcast_to(one, (*one.shape[:2], channels)),
        np.broadcast_to(other, (*other.shape[:2], channels)),
    )


def difference(source: UInt8Array, output: UInt8Array) -> NDArray[np.float32]:
    """Return the difference of two images of the same size at each pixel, in levels of luma."""
    apart: NDArray[np.float32] = np.abs(luma(source) - luma(output))
    return apart


def _resize(samples: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    if (samples.shape[1], samples.shape[0]) == size:
        return samples
    return np.atleast_3d(np.asarray(as_image(samples).resize(size, Image.Resampling.LANCZOS)))


def _compare(source: UInt8Array, output: UInt8Array) -> Likeness:
    import torch

    device = torch.device("cpu")
    one, other = to_tensor(output, device), to_tensor(source, device)
    large_enough = min(source.shape[:2]) >= SMALLEST_SIDE
    return Likeness(
        psnr=psnr(luma_of(one), luma_of(other)),
        ssim=ssim(luma_of(one), luma_of(other)) if large_enough else None,
        shift=tuple(shifts(one, other)),
    )
