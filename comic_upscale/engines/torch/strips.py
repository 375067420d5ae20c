"""The compact network on a CPU, a few rows at a time through all its layers: same numbers, warm caches.

A layer of a whole page is tens of megabytes that are written to memory, read back by the next layer and
returned to the system, which clears them again for the one after. Strips of a few rows stay in the
caches. Every layer keeps the last two rows of what it was given, as the next strip's first output row
needs them; so nothing is computed twice, which tiles with their overlap do.

::

    page      |. . 0 1 2 3|4 5 6 7|8 9 . .|      the dots are rows outside of the page, which count as zeros
    layer 1   |  . . 0 1 2|3 4 5 6|7 8 9 .|      each layer lags one row behind the one before:
    layer 2   |    . . 0 1|2 3 4 5|6 7 8 9|      it needs the row below

All strips of a page have one height in all layers, so that a page of a new size costs oneDNN three new
convolutions (first, inner, last), as it does at once, and not one for every layer of every odd strip.
"""

from __future__ import annotations

import copy

import torch
from spandrel.architectures.Compact import Compact  # type: ignore[import-untyped]
from torch.nn import functional

_STRIP_PIXELS = 24_576
"""Pixels of one strip: few enough for the caches, enough that threads and calls pay (half and twice
as many were within the noise of the machine that it was measured on)."""


def goes_in_strips(network: torch.nn.Module) -> bool:
    """Tell whether `StripwiseCompact` can run the network."""
    return isinstance(network, Compact) and all(
        layer.kernel_size == (3, 3) for layer in network.body if isinstance(layer, torch.nn.Conv2d)
    )


def _strips(all_rows: int, pixels_a_row: int) -> tuple[int, int]:
    """Return how many rows a strip has and how many strips there are, with few rows beyond the page."""
    wished = min(max(1, round(pixels_a_row * all_rows / _STRIP_PIXELS)), all_rows)
    counts = range(max(1, wished * 3 // 4), min(wished * 4 // 3, all_rows) + 1)
    choices = [(-(-all_rows // count), count) for count in counts]
    return min(choices, key=lambda choice: (choice[0] * choice[1], -choice[1]))


class StripwiseCompact(torch.nn.Module):
    """A compact network (SRVGGNetCompact) of 3x3 convolutions, for inference on a CPU.

    In float32 it gives what the network gives, to the bit. In bfloat16 only the chain of layers is
    computed in it; input, output and their sum are float32, since bfloat16 cannot tell 256 levels apart.

    Args:
        network: as spandrel loads it; it is copied.
        precision: of the chain of layers, float32 or bfloat16.
    """

    def __init__(self, network: Compact, precision: torch.dtype) -> None:
        super().__init__()
        self._layers = copy.deepcopy(network.body).to(dtype=precision, memory_format=torch.channels_last)
        self._precision = precision
        self._scale = int(network.upscale)
        self._lag = sum(isinstance(layer, torch.nn.Conv2d) for layer in self._layers)

    def forward(self, pages: torch.Tensor) -> torch.Tensor:
        """Return N x C x height*scale x width*scale of N x C x height x width, both float32, 0..1."""
        n, channels, height, width = pages.shape
        scale = self._scale
        native = pages.new_empty((n, channels, height * scale, width * scale))
        # The last layer has seen all of the page when so many rows have gone into the first.
        all_rows = height + self._lag
        rows, count = _strips(all_rows, n * width)
        signal = functional.pad(pages.to(self._precision), (0, 0, 0, rows * count - height))
        signal = signal.contiguous(memory_format=torch.channels_last)
        kept: dict[int, torch.Tensor] = {}
        for top in range(0, rows * count, rows):
            detail = self._through_the_layers(signal[:, :, top : top + rows], top, height, kept)
            first = top - self._lag
            ready = slice(max(first, 0), min(first + rows, height))
            if ready.start >= ready.stop:
                continue
            _shuffle_and_add(
                detail[:, :, ready.start - first : ready.stop - first].float(),
                pages[:, :, ready],
                native[:, :, ready.start * scale : ready.stop * scale],
                scale,
            )
        return native

    def _through_the_layers(
        self, strip: torch.Tensor, first: int, height: int, kept: dict[int, torch.Tensor]
    ) -> torch.Tensor:
        """Return what the last layer makes of a strip: as many rows, as many rows further up as there are layers.

        Args:
            strip: rows of the page, in the layers' precision.
            first: which row of the page is the strip's first.
            height: of the page; what lies outside of it is zero before every layer.
            kept: by layer, the last two rows that it was given; none before the first strip.
        """
        for index, layer in enumerate(self._layers):
            if isinstance(layer, torch.nn.Conv2d):
                given = (
                    torch.cat((kept[index], strip), dim=2)
                    if index in kept
                    # Two rows of zeros above; padding keeps the channels last, which joining with zeros does not.
                    else functional.pad(strip, (0, 0, 2, 0))
                )
                kept[index] = given[:, :, -2:].clone(memory_format=torch.channels_last)
                strip = functional.conv2d(given, layer.weight, layer.bias, padding=(0, 1))
                first -= 1
                continue
            strip = layer(strip)
            if first < 0:
                strip[:, :, :-first] = 0
            if first + strip.shape[2] > height:
                strip[:, :, max(height - first, 0) :] = 0
        return strip


def _shuffle_and_add(detail: torch.Tensor, pages: torch.Tensor, native: torch.Tensor, scale: int) -> None:
    """Put what the last layer says on top of the enlarged page: pixel shuffle, nearest neighbour and sum in one.

    Each by itself is a pass over the native pixels, together they took five times as long.

    Args:
        detail: float32, N x C*scale*scale x height x width.
        pages: float32, N x C x height x width.
        native: float32, N x C x height*scale x width*scale, contiguous in memory along its last axis; is filled.
        scale: the network's own factor.
    """
    n, channels, height, width = pages.shape
    # Neither view copies: all three are seen as N x C x height x scale x width x scale.
    shuffled = (
        detail.permute(0, 2, 3, 1).view(n, height, width, channels, scale, scale).permute(0, 3, 1, 4, 2, 5)
    )
    torch.add(
        shuffled,
        pages[:, :, :, None, :, None],
        out=native.view(n, channels, height, scale, width, scale),
    )
