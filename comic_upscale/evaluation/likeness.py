"""How much an upscaled page is still its source: shrunk back to the source's size and compared with it.

That cannot tell a good page from a very good one (detail that the network added is gone again), but it
tells a page that went wrong: another picture, a tint, a black or shifted tile, lettering that was lost.
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
    """What an output shrunk back has in common with its source."""

    psnr: float
    """Decibels on luma; at most 80, which is the same picture."""
    ssim: float | None
    """On luma, at most 1; None for a side below 11 pixels."""
    shift: tuple[float, ...]
    """Gray levels of 255 by which the mean of each channel (gray, or red, green and blue) lies above the
    source's."""

    @property
    def largest_shift(self) -> float:
        """The largest of the shifts, without its sign."""
        return max(abs(level) for level in self.shift)


def likeness(source: Pixels, output: Pixels) -> Likeness:
    """Compare an output with its source, at the size of the smaller of the two.

    Transparent pages are compared on white and on black, and the worse counts.

    Args:
        source: the page.
        output: what became of it, of the same shape.

    Raises:
        PageError: ``"transparency"`` where only one of the two is transparent, unless the output was laid
            on white since its format has no transparency.
    """
    if is_transparent(source) and output.alpha is None:
        source = Pixels(flatten(source, WHITE))
    check_transparency(source, output)
    import torch

    grounds = (WHITE, BLACK) if is_transparent(source) else (WHITE,)
    with torch.inference_mode():
        found = [_compare(*brought_together(source, output, ground)) for ground in grounds]
    return min(found, key=lambda each: each.psnr)


def brought_together(source: Pixels, output: Pixels, ground: int = WHITE) -> tuple[UInt8Array, UInt8Array]:
    """Return source and output at one size and in one number of channels.

    The larger one is shrunk by Pillow's Lanczos, antialiased, as pages are.

    Args:
        source: the page.
        output: what became of it.
        ground: what transparent pages are laid on.
    """
    size = (min(source.width, output.width), min(source.height, output.height))
    one, other = (_resized(flatten(page, ground), size) for page in (source, output))
    channels = max(one.shape[2], other.shape[2])
    return (
        np.broadcast_to(one, (*one.shape[:2], channels)),
        np.broadcast_to(other, (*other.shape[:2], channels)),
    )


def difference(source: UInt8Array, output: UInt8Array) -> NDArray[np.float32]:
    """Return how far apart two pictures of one size are at each pixel, in gray levels of luma."""
    apart: NDArray[np.float32] = np.abs(luma(source) - luma(output))
    return apart


def _resized(samples: UInt8Array, size: tuple[int, int]) -> UInt8Array:
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
