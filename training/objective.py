"""What training makes small: the difference from the truth at the size that a reader asked for.

A page is asked for at 2-2.5x of a network of 3x, so the network's output is shrunk by the very kernel
that the program shrinks with before it is compared. So the network spends nothing on detail finer than
any reader sees.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn import functional

from comic_upscale.engines.lanczos import Span, dense_weights

_LUMA = (0.299, 0.587, 0.114)
"""BT.601, the luma of JPEG and of the field's scores."""
_LEAST_SQUARE = (0.5 / 255) ** 2
"""Half a level: smaller errors are lost when pixels are rounded."""
_AROUND = 5
"""Side in pixels of what counts as around a pixel, for `halo_loss`."""
_SURELY_WHITE = 1 + 0.5 / 255
"""Half a level more than white, so that a little noise does not round to less."""


def shrink_to(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Resample squares to the side by antialiased Lanczos-3, as the program does; differentiable.

    Args:
        pixels: float32, batch x 3 x height x width, height equal to width.
        side: pixels asked for.
    """
    if pixels.shape[-1] == side:
        return pixels
    matrix = _matrix(pixels.shape[-1], side, str(pixels.device))
    return matrix @ (pixels @ matrix.T)


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """Return BT.601 luma, batch x height x width, of RGB, batch x 3 x height x width."""
    red, green, blue = _LUMA
    return red * pixels[:, 0] + green * pixels[:, 1] + blue * pixels[:, 2]


def loss(made: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of the colours plus that of the luma.

    The eye and the scores look at lines first; without the second term, colour lost to chroma
    subsampling, which nothing brings back, would steer a small network.

    Args:
        made: the network's output, float32, batch x 3 x side x side.
        truth: float32, batch x 3, of the size that was asked for.
    """
    difference = shrink_to(made, truth.shape[-1]) - truth
    return difference.abs().mean() + luma(difference).abs().mean()


def patch_loss(made: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the root of the mean square difference of each patch, colours and luma, averaged over the patches.

    Within a patch the square asks for the mean of what the truth may be, so detail that the input cannot tell stays
    even instead of half of it being dots. The root keeps calm and busy patches comparable, as a PSNR for each page
    does.

    Args:
        made: the network's output, float32, batch x 3 x side x side.
        truth: float32, batch x 3, of the size that was asked for.
    """
    difference = shrink_to(made, truth.shape[-1]) - truth
    squares = difference.square().mean((1, 2, 3)) + luma(difference).square().mean((1, 2))
    return (squares + _LEAST_SQUARE).sqrt().mean()


def edge_loss(made: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of the steps from pixel to pixel, across and down.

    A soft contour has the right levels almost everywhere, and the wrong steps all along.

    Args:
        made: the network's output, float32, batch x 3 x side x side.
        truth: float32, batch x 3, of the size that was asked for.
    """
    difference = shrink_to(made, truth.shape[-1]) - truth
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def halo_loss(made: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return by how much pixels are lighter or darker than every pixel of the truth around them, as a mean.

    Whatever sharpens tends to draw halos beside lines. The eye takes them for drawn lines.

    Args:
        made: the network's output, float32, batch x 3 x side x side.
        truth: float32, batch x 3, of the size that was asked for.
    """
    # Beyond white and black the output is cut.
    output = shrink_to(made, truth.shape[-1]).clamp(0, 1)
    lightest = functional.max_pool2d(truth, _AROUND, stride=1, padding=_AROUND // 2)
    darkest = -functional.max_pool2d(-truth, _AROUND, stride=1, padding=_AROUND // 2)
    return (output - lightest).clamp(min=0).mean() + (darkest - output).clamp(min=0).mean()


def white_areas(truth: torch.Tensor) -> torch.Tensor:
    """Return where a truth is pure white with all eight neighbours; batch x 1 x height x width.

    Args:
        truth: float32, batch x 3 x height x width, 0..1.
    """
    darkest = functional.max_pool2d(1 - truth.amin(1, keepdim=True), 3, stride=1, padding=1)
    return darkest < 0.5 / 255


def white_loss(made: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return by how much white falls short of white, mean over the white of the truth; 0 without any.

    What JPEG leaves on white is a few levels, next to nothing beside the lines in `patch_loss`, yet the eye sees it
    on paper. White may be overshot: the output is cut at 255.

    Args:
        made: the network's output, float32, batch x 3 x side x side.
        truth: float32, batch x 3, of the size that was asked for.
    """
    white = white_areas(truth)
    short = (_SURELY_WHITE - shrink_to(made, truth.shape[-1])).clamp(min=0).mean(1, keepdim=True)
    return (short * white).sum() / white.sum().clamp(min=1)


@lru_cache(maxsize=16)
def _matrix(in_side: int, out_side: int, device: str) -> torch.Tensor:
    inputs, weights = dense_weights(in_side, out_side, Span(0, out_side))
    whole = torch.zeros(out_side, in_side)
    whole[:, inputs.start : inputs.stop] = torch.from_numpy(weights)
    return whole.to(device)
