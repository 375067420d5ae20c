"""Run the compact network on a CPU, a few rows at a time through all layers: same numbers, warm caches.

For a whole page, a layer writes tens of megabytes to memory, and the next layer reads them. Then they are returned to
the system, which clears them for the layer after. Strips of a few rows stay in the caches. Every layer keeps the last
two rows of its input, because the first output row of the next strip needs them. So nothing is computed twice, unlike
with tiles and their overlap.

::

    page      |. . 0 1 2 3|4 5 6 7|8 9 . .|      the dots are rows outside of the page, which count as zeros
    layer 1   |  . . 0 1 2|3 4 5 6|7 8 9 .|      each layer lags one row behind the previous layer:
    layer 2   |    . . 0 1|2 3 4 5|6 7 8 9|      it needs the row below

No strip is copied between the layers: each convolution also computes two rows above its strip, which mean
nothing, and the two rows that the next layer needs there take their place.

All strips of a page have the same height in all layers. So oneDNN prepares three convolutions for a page of a new size
(first, inner, last), as for a whole page, and not one for every layer of every odd strip.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch.nn import functional

from comic_upscale.engines.torch.convolution import Convolution
from comic_upscale.engines.torch.gray_network import make_gray_ends
from comic_upscale.engines.torch.int8 import Int8Convolution, even_areas, open_int8, without_noise
from comic_upscale.models.architectures import Compact
from comic_upscale.models.network import Network

_STRIP_PIXELS = 49_152
"""Pixels of one strip: few enough for the caches, enough to make threads and calls worthwhile. In bfloat16, half as
many took a fifth longer, and twice as many a sixth. In float32, all were within the noise of the measurement."""
_EXTRA_ROWS = 4
"""Rows that an inner layer computes for a strip beside its own."""


def goes_in_strips(network: torch.nn.Module) -> bool:
    """Return whether `StripwiseCompact` can run the network."""
    return isinstance(network, Compact) and all(
        layer.kernel_size == (3, 3) for layer in network.body if isinstance(layer, torch.nn.Conv2d)
    )


def in_strips(network: Network, precision: torch.dtype) -> StripwiseCompact:
    """Return a network in strips.

    Args:
        network: one that `goes_in_strips` accepts.
        precision: float32, bfloat16, or int8 for codes of 8 bits.

    Raises:
        UnusableInt8Error: as `open_int8`.
    """
    if precision == torch.int8:
        return StripwiseCompact(open_int8(network), torch.uint8, network.native_scale)
    return StripwiseCompact.of(network.module, precision)


def _strips(all_rows: int, pixels_a_row: int) -> tuple[int, int]:
    """Return the rows per strip and the number of strips, so that few rows are computed in vain."""
    wanted = min(max(1, round(pixels_a_row * all_rows / _STRIP_PIXELS)), all_rows)
    counts = range(max(1, wanted * 3 // 4), min(wanted * 4 // 3, all_rows) + 1)
    choices = [(-(-all_rows // count), count) for count in counts]
    return min(choices, key=lambda choice: ((choice[0] + _EXTRA_ROWS) * choice[1], -choice[0]))


class StripwiseCompact(torch.nn.Module):
    """A compact network (SRVGGNetCompact) of 3x3 convolutions, for inference on a CPU.

    In float32 the result equals that of the network, to the bit for pages of more than a few pixels. In bfloat16 or
    codes of 8 bits only the chain of layers is. Input, output and their sum are float32, since bfloat16 cannot
    distinguish 256 levels.

    Args:
        layers: the convolutions, each with its activation.
        precision: what the first layer takes: float32, bfloat16, or uint8 for codes.
        scale: the network's own factor.
        copies: how many channels of the first layer each channel of the page becomes.
    """

    def __init__(
        self,
        layers: Sequence[Convolution | Int8Convolution],
        precision: torch.dtype,
        scale: int,
        copies: int = 1,
    ) -> None:
        super().__init__()
        self._copies = copies
        self.layers = tuple(layers)
        """As given."""
        self._precision = precision
        self._scale = scale
        self._lag = len(self.layers)

    @classmethod
    def of(cls, network: Compact, precision: torch.dtype) -> StripwiseCompact:
        """Return a network in strips.

        Args:
            network: the network from spandrel; it is copied.
            precision: float32 or bfloat16.
        """
        layers = copy.deepcopy(network.body).to(dtype=precision, memory_format=torch.channels_last)
        convolutions = [
            Convolution(layer, None if isinstance(after, torch.nn.Conv2d) else after)
            for layer, after in pairwise([*layers, None])
            if isinstance(layer, torch.nn.Conv2d)
        ]
        return cls(convolutions, precision, int(network.upscale))

    def for_gray(self, network: Compact) -> StripwiseCompact:
        """Return the version of one channel; it shares all layers but the first and the last.

        Args:
            network: what this one was made of, with a gray version.
        """
        end = self.layers[-1]
        if isinstance(end, Int8Convolution):
            # The first layer stays: the sum of its kernels would have to be rounded to 8 bits.
            gray_end = Int8Convolution(end.layer.averaged())
            return StripwiseCompact([*self.layers[:-1], gray_end], self._precision, self._scale, copies=3)
        first, last = (
            end.to(self._precision).to(memory_format=torch.channels_last) for end in make_gray_ends(network)
        )
        ends = Convolution(first, copy.deepcopy(network.body[1]).to(self._precision)), Convolution(last, None)
        return StripwiseCompact([ends[0], *self.layers[1:-1], ends[1]], self._precision, self._scale)

    def forward(self, pages: torch.Tensor) -> torch.Tensor:
        """Return N x C x height*scale x width*scale of N x C x height x width, both float32, 0..1."""
        n, channels, height, width = pages.shape
        scale = self._scale
        native = pages.new_empty((n, channels, height * scale, width * scale))
        # The last layer has processed the whole page after this many rows went into the first layer.
        all_rows = height + self._lag
        rows, count = _strips(all_rows, n * width)
        entered = self._enter(pages)
        even = even_areas(entered) if self._precision == torch.uint8 else None
        signal = functional.pad(entered, (0, 0, 2, rows * count - height))
        signal = signal.contiguous(memory_format=torch.channels_last)
        last_rows: dict[int, torch.Tensor] = {}
        for top in range(0, rows * count, rows):
            detail = self._run_layers(signal[:, :, top : top + rows + 2], top, height, last_rows)
            first = top - self._lag
            ready = slice(max(first, 0), min(first + rows, height))
            if ready.start >= ready.stop:
                continue
            detail = detail[:, :, ready.start - first : ready.stop - first].float()
            if even is not None:
                detail = without_noise(detail, even[:, :, ready])
            _shuffle_and_add(
                detail,
                pages[:, :, ready],
                native[:, :, ready.start * scale : ready.stop * scale],
                scale,
            )
        return native

    def _enter(self, pages: torch.Tensor) -> torch.Tensor:
        """Return pages as the first layer takes them."""
        if self._precision == torch.uint8:
            return (pages * 255).round_().to(torch.uint8).repeat(1, self._copies, 1, 1)
        return pages.to(self._precision)

    def _run_layers(
        self, given: torch.Tensor, first: int, height: int, last_rows: dict[int, torch.Tensor]
    ) -> torch.Tensor:
        """Return the output of the last layer for a strip: two rows fewer, shifted up by one row per layer.

        Args:
            given: the strip with two rows above it, in the layers' precision.
            first: the row of the page that is the strip's first row.
            height: height of the page; rows outside of it count as zeros before every layer.
            last_rows: for each layer but the first, the last two rows of its input; empty before the first strip.
        """
        rows = given.shape[2] - 2
        for index, layer in enumerate(self.layers[:-1], 1):
            # Two more rows above and below, of which those above make room for the rows of the strip before.
            given = layer.forward(given, rows_around=2)[:, :, : rows + 2]
            first -= 1
            strip = given[:, :, 2:]
            if first < 0:
                strip[:, :, :-first] = layer.outside
            if first + rows > height:
                strip[:, :, max(height - first, 0) :] = layer.outside
            # Above the first strip, no row of the page depends on them.
            if index in last_rows:
                given[:, :, :2] = last_rows[index]
            last_rows[index] = given[:, :, rows:].clone(memory_format=torch.channels_last)
        return self.layers[-1].forward(given, rows_around=0)


def _shuffle_and_add(detail: torch.Tensor, pages: torch.Tensor, native: torch.Tensor, scale: int) -> None:
    """Add the output of the last layer to the enlarged page: pixel shuffle, nearest neighbour and sum in one pass.

    Separately, each is a pass over the native pixels, and the three took five times as long.

    Args:
        detail: float32, N x C*scale*scale x height x width.
        pages: float32, N x C x height x width.
        native: the result; float32, N x C x height*scale x width*scale, contiguous in memory along its last axis.
        scale: the network's own factor.
    """
    n, channels, height, width = pages.shape
    # The views copy nothing. All three have the shape N x C x height x scale x width x scale.
    shuffled = (
        detail.permute(0, 2, 3, 1).view(n, height, width, channels, scale, scale).permute(0, 3, 1, 4, 2, 5)
    )
    torch.add(
        shuffled,
        pages[:, :, :, None, :, None],
        out=native.view(n, channels, height, scale, width, scale),
    )
